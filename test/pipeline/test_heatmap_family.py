# SPDX-License-Identifier: Apache-2.0
"""The heatmap family's runtime on a network that draws perfect maps of a box's keypoints, or of a disc."""

import dataclasses

import numpy as np
import pytest

from pose_kd_ros.bundle.manifest import BundleError, InputSpec, NetworkSpec, PeopleSpec
from pose_kd_ros.bundle.store import Bundle
from pose_kd_ros.core.camera import Crop
from pose_kd_ros.core.metrics import mssd
from pose_kd_ros.core.pose import transform
from pose_kd_ros.pipeline.families import make_estimator
from pose_kd_ros.pipeline.people import PeopleEstimator, PeopleFollower, mirrored_order
from pose_kd_ros.pipeline.preprocess import in_full_image
from pose_kd_ros.pipeline.region import Region, projected_box
from pose_kd_ros.pipeline.regional import RegionalEstimator, decode_maps
from test.bundle.test_bundle import manifest, people_manifest
from test.pipeline.test_keypoint import BENT, FISHEYE, MODEL, PINHOLE, POSE, SECOND, Oracle, estimator

OTHER = dataclasses.replace(MODEL, id=2, name="other")
SPEC = InputSpec(256, 256, 32, 1.5, "rgb", [0.0] * 3, [1.0] * 3)
NETWORK = NetworkSpec("network.onnx", ["heatmaps"], [4], 1, 0.1)


def drawn(points, height, width, sigma=2.0):
    """Unit-peak Gaussians (K, height / 4, width / 4) about points (K, 2) of the crop."""
    v, u = np.mgrid[: height // 4, : width // 4] * 4 + 1.5
    squared = (u - points[:, :1, None]) ** 2 + (v - points[:, 1:, None]) ** 2
    return np.exp(-squared / (2 * (4 * sigma) ** 2))


class MapOracle(Oracle):
    """Recovers the crop from the picture, as Oracle does, and draws where the keypoints of the second of two
    classes are; the first one's maps are faint."""

    hidden = ()

    def __call__(self, image):
        scale, left, top = self.crop_of(image[0] * 255)
        self.sizes.append(image.shape[2:])
        keypoints = transform(self.poses[0], MODEL.keypoints)
        maps = drawn((self.camera.project(keypoints) - (left, top)) * scale, *image.shape[2:])
        maps[list(self.hidden)] = 0
        return {"heatmaps": np.stack([0.2 * maps[::-1], maps])[None]}


def heatmap(oracle, locator=None, **options) -> RegionalEstimator:
    cube = manifest().objects[0]
    specs = [dataclasses.replace(cube, id=number, class_name=f"cube {number}") for number in (2, 1)]
    described = manifest(family="heatmap", input=SPEC, network=NETWORK, objects=specs)
    return make_estimator(Bundle(None, described, (OTHER, MODEL)), oracle, locator, **options)


def region(camera, number=1) -> Region:
    return Region(projected_box(POSE, MODEL, camera), number, 7)


@pytest.mark.parametrize("camera", [PINHOLE, BENT, FISHEYE], ids=["pinhole", "plumb_bob", "equidistant"])
def test_perfect_maps_give_the_pose(camera):
    oracle = MapOracle(camera, [POSE])
    (pose,) = heatmap(oracle).estimate(oracle.image(), camera, [region(camera)], search=False).poses
    assert mssd(pose.pose, POSE, MODEL.corners(), MODEL.symmetries) < 0.003  # the crop is read off 8 bits
    assert (pose.object_id, pose.track_id, pose.cells) == (1, 7, 8) and oracle.sizes == [(256, 256)]
    assert pose.support > 0.99 and pose.score > 0.4


def test_the_class_is_the_one_whose_maps_peak_highest():
    oracle = MapOracle(PINHOLE, [POSE])
    found = heatmap(oracle, pose_score=0.0).estimate(oracle.image(), PINHOLE, [region(PINHOLE, None)])
    assert [p.object_id for p in found.poses] == [1]
    told = heatmap(oracle, pose_score=0.0).estimate(oracle.image(), PINHOLE, [region(PINHOLE, 2)])
    assert told.poses == []  # its maps are too faint for cell_score


@pytest.mark.parametrize(("hidden", "poses"), [((0, 3, 6, 7), 1), ((0, 1, 3, 6, 7), 0)])
def test_four_keypoints_are_a_pose_and_three_are_none(hidden, poses):
    oracle = MapOracle(PINHOLE, [POSE])
    oracle.hidden = hidden
    found = heatmap(oracle, pose_score=0.0).estimate(oracle.image(), PINHOLE, [region(PINHOLE)])
    assert len(found.poses) == poses


def test_the_locator_and_the_region_say_where_to_look():
    seen = MapOracle(PINHOLE, [POSE])
    locator = estimator(Oracle(PINHOLE, [POSE]), pose_score=0.3)
    assert len(heatmap(seen, locator).estimate(seen.image(), PINHOLE).poses) == 1
    elsewhere = Region(projected_box(SECOND, MODEL, PINHOLE), 1)
    assert heatmap(seen).estimate(seen.image(), PINHOLE, [elsewhere]).poses == []


def test_an_object_twice_as_large_is_twice_as_far():
    oracle = MapOracle(PINHOLE, [POSE])
    (pose,) = heatmap(oracle).scaled({1: 2.0}).estimate(oracle.image(), PINHOLE, [region(PINHOLE)]).poses
    assert np.allclose(pose.pose[:3, 3], 2 * POSE[:3, 3], atol=0.005)


def test_what_passes_to_pnp_are_the_confident_keypoints():
    maps = drawn(MODEL.corners()[:, :2] * 1000 + 64, 128, 128) * np.linspace(0.1, 0.8, 8)[:, None, None]
    found = decode_maps(maps, MODEL.keypoints, stride=4, threshold=0.35, object_id=1)
    assert len(found.image) == 5 and (found.weight > 0.35).all()
    np.testing.assert_array_equal(found.object, MODEL.keypoints[3:])
    np.testing.assert_allclose(found.covariance, np.tile(64 * np.eye(2), (5, 1, 1)), rtol=1e-6, atol=1e-6)
    assert found.score == pytest.approx(0.45, abs=0.02)  # of all keypoints
    full = in_full_image(found, Crop(100, 50, 2.0, 128, 128), PINHOLE)
    np.testing.assert_allclose(full.covariance, found.covariance / 4)
    np.testing.assert_allclose(full.image, (found.image + 0.5) / 2 + (99.5, 49.5))


class Disc:
    """Draws a left hand right of the middle of whatever is bright, a right one left of it, and feet below."""

    def __init__(self):
        self.sizes = []

    def __call__(self, image):
        self.sizes.append(image.shape[2:])
        v, u = np.nonzero(image[0, 0] > 0.5)
        middle = np.array([u.mean(), v.mean()])
        return {"heatmaps": drawn(middle + [[20, 0], [-20, 0], [0, 30]], *image.shape[2:])[None, None]}


SKELETON = PeopleSpec(["left_hand", "right_hand", "feet"], [], [[0, 1]])


def people(network, **options) -> PeopleEstimator:
    return make_estimator(Bundle(None, people_manifest(people=SKELETON), ()), network, **options)


def bright(u, v):
    """A bright square of 21 x 21 about a pixel, and a region that leaves it off its middle."""
    image = np.zeros((240, 320, 3), np.uint8)
    image[v - 10 : v + 11, u - 10 : u + 11] = 255
    return image, Region(np.array([u - 21.3, v - 45.0, u + 30.0, v + 40.2]), track_id=4)


def test_people_are_found_in_crops_of_the_bundle_s_aspect():
    network, (image, there) = Disc(), bright(150, 110)
    (person,) = people(network).estimate(image, [there])
    assert network.sizes == [(256, 192)] and (person.number, person.track_id) == (0, 4)
    scale = 256 / (85.2 * 1.25)
    wanted = [150, 110] + np.array([[20, 0], [-20, 0], [0, 30]]) / scale
    np.testing.assert_allclose(person.points, wanted, atol=0.1)
    np.testing.assert_array_equal(person.box, there.box)


def test_the_flip_test_moves_nothing():
    """A mirrored map that is put back a pixel aside would move the peaks by half of it, 0.8 px here."""
    network, (image, there) = Disc(), bright(150, 110)
    (plain,) = people(network).estimate(image, [there])
    (both,) = people(network, flip_test=True).estimate(image, [there])
    assert len(network.sizes) == 3
    np.testing.assert_allclose(both.points, plain.points, atol=0.02)
    np.testing.assert_allclose(both.scores, plain.scores, atol=0.02)


def test_pairs_change_places_in_a_mirror():
    assert mirrored_order(5, [[1, 2], [4, 3]]).tolist() == [0, 2, 1, 4, 3]


def test_frames_of_people_come_in_order():
    image, there = bright(150, 110)
    observer = PeopleFollower(people(Disc()), max_instances=1)
    seen = observer.process(5.0, image, None, [there, there])
    assert len(seen.people) == 1 and set(seen.stages_ms) == {"preprocess", "network", "decode"}
    assert [observer.order(stamp) for stamp in (5.1, 5.0, 4.0)] == ["next", "late", "jumped"]
    observer.reset()
    assert observer.order(1.0) == "next"


def test_people_have_no_locator():
    with pytest.raises(BundleError, match="people, in boxes that it is given, which needs no locator"):
        people(Disc(), locator=estimator(Oracle(PINHOLE, [POSE])))
