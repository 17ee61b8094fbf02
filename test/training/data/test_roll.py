# SPDX-License-Identifier: Apache-2.0
"""A camera turned about its axis: pictures, masks, poses and boxes turn together."""

import dataclasses

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")

from pose_kd_ros.core.object_model import box_corners
from pose_kd_ros.core.pose import transform
from pose_kd_ros.datasets.bop import BopDataset
from pose_kd_ros.datasets.faults import Faults
from training.config import RunConfig
from training.data.crops import CropConfig
from training.data.objects import load_objects
from training.data.paste import LIFTED, LIT, PasteConfig, Paster, relit
from training.data.tiles import model_box, read_tile, rolled
from training.models.dense import DenseConfig

CORNERS = box_corners((0, 0, 0), (0.084, 0.084, 0.084))


def silhouette(tile):
    (instance,) = tile.instances
    points = transform(instance.T_camera_object, CORNERS) @ tile.K.T
    pixels = np.round(points[:, :2] / points[:, 2:]).astype(np.int32)
    mask = np.zeros(tile.labels.shape, np.uint8)
    return cv2.fillConvexPoly(mask, cv2.convexHull(pixels), 1)


@pytest.fixture
def tile(tiny_data):
    image = BopDataset(tiny_data / "train", Faults()).images[0]
    tile = read_tile(image, {1})
    K = tile.K.copy()
    K[1, 1] *= 1.1  # unlike focal lengths: no rotation of the pixels, yet one of the camera
    stretched = cv2.warpAffine(
        tile.labels, np.array([[1, 0, 0], [0, 1.1, -0.1 * K[1, 2]]]), tile.labels.shape[::-1], flags=0
    )
    return dataclasses.replace(tile, K=K, labels=stretched)


@pytest.mark.parametrize("degrees", [-25.0, 10.0, 90.0])
def test_masks_lie_where_the_rolled_pose_says(tile, tiny_data, degrees):
    (model,) = load_objects(tiny_data)
    found = rolled(tile, np.radians(degrees), {1: model})
    expected, mask = silhouette(found), (found.labels > 0).astype(np.uint8)
    assert expected.sum() > 300
    assert (expected & mask).sum() / (expected | mask).sum() > 0.93
    box = model_box(found.instances[0].T_camera_object, model, found.K)
    assert found.instances[0].box_size == pytest.approx(max(box[2:] - box[:2]))


def test_a_positive_angle_turns_from_u_towards_v(tile, tiny_data):
    (model,) = load_objects(tiny_data)
    pose = rolled(tile, np.radians(90), {1: model}).instances[0].T_camera_object
    np.testing.assert_allclose(pose[:3, 3], tile.instances[0].T_camera_object[[1, 0, 2], 3] * (-1, 1, 1))


def test_dense_codes_refuse_it():
    with pytest.raises(ValueError, match="roll_deg"):
        RunConfig("run", network=DenseConfig(), crops=CropConfig(roll_deg=10.0))


def test_pasted_objects_keep_their_pixels_and_what_covers_them_is_nobodys(tile, tiny_data, tmp_path):
    cv2.imwrite(str(tmp_path / "photo.png"), np.full((300, 400, 3), 255, np.uint8))
    paster = Paster(PasteConfig(1.0, tmp_path))
    for seed in range(5):
        found = paster(tile, np.random.default_rng(seed))
        inside = cv2.erode((found.labels > 0).astype(np.uint8), np.ones((5, 5))) > 0
        outside = cv2.dilate((tile.labels > 0).astype(np.uint8), np.ones((5, 5))) == 0
        for channel in range(3):  # relit: the same value becomes the same value, brighter stays brighter
            before, after = tile.pixels[inside][:, channel], found.pixels[inside][:, channel]
            order = np.argsort(before, kind="stable")
            assert (np.diff(after[order].astype(int)) >= 0).all()
            assert all(np.ptp(after[before == value]) == 0 for value in np.unique(before))
        assert (found.pixels[outside] == 255).all()
        assert not ((found.labels > 0) & (tile.labels == 0)).any()
        assert found.instances == tile.instances
    half = Paster(PasteConfig(0.5, tmp_path))
    left = [half(tile, np.random.default_rng(seed)) is tile for seed in range(20)]
    assert 4 < sum(left) < 16
    with pytest.raises(ValueError, match="pictures"):
        PasteConfig(0.5)


@pytest.mark.parametrize("level", [20, 128, 250])
def test_dark_objects_are_lifted_and_bright_ones_stay_bright(level):
    pixels, mask = np.full((8, 8, 3), level, np.uint8), np.ones((8, 8), bool)
    means = [relit(pixels, mask, np.random.default_rng(seed)).mean() for seed in range(200)]
    most = min(255, max(LIT[1] * level, LIFTED))
    assert min(means) < 0.75 * level and 0.8 * most < max(means) <= 1.25 * most
