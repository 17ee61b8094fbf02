# SPDX-License-Identifier: Apache-2.0
"""The whole path on a network that votes perfectly: every crop, scale, distortion and symmetry must come out
right."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pose_kd_ros.bundle.manifest import InputSpec
from pose_kd_ros.bundle.store import Bundle
from pose_kd_ros.core.camera import Camera, Crop
from pose_kd_ros.core.cells import cell_grid
from pose_kd_ros.core.metrics import mssd
from pose_kd_ros.core.object_model import ObjectModel, box_corners
from pose_kd_ros.core.pose import from_rotation_vector, make_pose, transform
from pose_kd_ros.core.predictions import LocalPredictions
from pose_kd_ros.pipeline.keypoint import KeypointEstimator
from pose_kd_ros.pipeline.region import Region, projected_box
from pose_kd_ros.pipeline.score import evidence, highest_score, score_of
from test.bundle.test_bundle import manifest

STRIDES = [8, 16, 32, 64]
MODEL = ObjectModel(1, "cube", 0.1455, np.zeros(3), np.full(3, 0.084), box_corners((0, 0, 0), (0.084,) * 3))
POSE = make_pose(from_rotation_vector((2.0, 0.3, -0.4)), (0.05, 0.02, 0.6))
SECOND = make_pose(from_rotation_vector((1.8, -0.5, 0.2)), (-0.14, 0.03, 0.7))
PINHOLE = Camera(np.array([[550.0, 0, 320], [0, 545, 240], [0, 0, 1]]), np.zeros(0), "plumb_bob", 640, 480)
FISHEYE = Camera(PINHOLE.K, np.array([0.05, -0.02, 0.01, 0.0]), "equidistant", 640, 480)
BENT = Camera(PINHOLE.K, np.array([0.12, -0.2, 0.001, -0.002, 0.05]), "plumb_bob", 640, 480)


class Oracle:
    """Knows the true poses; recovers from the pixels which crop it is shown, and votes as a perfect network
    would.

    The image encodes u in its red and v in its green channel, so the crop is read off the input, not told.
    """

    def __init__(self, camera, poses, noise_px=0.0):
        self.camera, self.poses, self.noise = camera, poses, np.random.RandomState(0)
        self.noise_px, self.sizes, self.shrunk = noise_px, [], 1.0

    def image(self):
        v, u = np.mgrid[0:480, 0:640]
        return np.stack([u * 255 / 640, v * 255 / 480, np.full(u.shape, 200)], -1).astype(np.uint8)

    def crop_of(self, pixels):
        inside = pixels[2] > 150
        v, u = np.nonzero(inside)
        x, y = pixels[0][inside] * 640 / 255, pixels[1][inside] * 480 / 255
        scale = 1 / np.polyfit(u, x, 1)[0]
        return scale, np.median(x - u / scale), np.median(y - v / scale)

    def __call__(self, image):
        pixels = image[0] * 255
        self.sizes.append(image.shape[2:])
        scale, left, top = self.crop_of(pixels)
        centers, _ = cell_grid(*image.shape[2:], STRIDES)
        scores, offsets = np.zeros((1, len(centers), 1)), np.zeros((1, len(centers), 1, 8, 2))
        for pose in self.poses:
            votes = (self.camera.project(transform(pose, MODEL.keypoints)) - (left, top)) * scale
            votes = votes.mean(0) + self.shrunk * (votes - votes.mean(0))
            cells = np.linalg.norm(centers - votes.mean(0), axis=1) < 0.3 * np.ptp(votes, axis=0).max()
            scores[0, cells, 0] = 0.95
            offsets[0, cells, 0] = (
                votes - centers[cells, None] + self.noise.normal(0, self.noise_px, (cells.sum(), 8, 2))
            )
        return {"scores": scores, "offsets": offsets}


def estimator(oracle, **options):
    spec = InputSpec(256, 640, 64, 1.5, "rgb", [0.0] * 3, [1.0] * 3)
    return KeypointEstimator(Bundle(None, manifest(input=spec), (MODEL,)), oracle, **options)


@pytest.mark.parametrize("camera", [PINHOLE, BENT, FISHEYE], ids=["pinhole", "plumb_bob", "equidistant"])
def test_a_perfect_network_gives_the_pose_through_search_and_zoom(camera):
    oracle = Oracle(camera, [POSE], noise_px=0.5)
    found = estimator(oracle).estimate(oracle.image(), camera)
    assert len(found.poses) == 1 and oracle.sizes == [(512, 640), (256, 256)]
    # the oracle reads its crop off 8-bit pixels, which blurs every vote by up to a pixel
    assert mssd(found.poses[0].pose, POSE, MODEL.corners(), MODEL.symmetries) < 0.02 * MODEL.diameter
    assert set(found.stages_ms) == {"preprocess", "network", "decode", "pnp"}


def test_a_region_is_enough_and_carries_its_track():
    oracle = Oracle(PINHOLE, [POSE, SECOND])
    region = Region(projected_box(SECOND, MODEL, PINHOLE), 1, track_id=7)
    found = estimator(oracle).estimate(oracle.image(), PINHOLE, [region], search=False)
    assert [p.track_id for p in found.poses] == [7] and oracle.sizes == [(256, 256)]
    assert mssd(found.poses[0].pose, SECOND, MODEL.corners(), MODEL.symmetries) < 0.02 * MODEL.diameter


def test_two_instances_are_two_poses_and_a_known_one_is_not_found_again():
    oracle = Oracle(PINHOLE, [POSE, SECOND])
    assert len(estimator(oracle).estimate(oracle.image(), PINHOLE).poses) == 2
    region = Region(projected_box(POSE, MODEL, PINHOLE), 1, track_id=3)
    found = estimator(oracle).estimate(oracle.image(), PINHOLE, [region], search=True)
    assert sorted(str(p.track_id) for p in found.poses) == ["3", "None"]


def test_a_region_without_its_object_makes_the_frame_a_search():
    oracle = Oracle(PINHOLE, [POSE])
    elsewhere = Region(projected_box(SECOND, MODEL, PINHOLE), 1, track_id=7)
    lost = estimator(oracle).estimate(oracle.image(), PINHOLE, [elsewhere], search=False)
    assert lost.poses == []
    found = estimator(oracle).estimate(oracle.image(), PINHOLE, [elsewhere], search=False, recover=True)
    assert len(found.poses) == 1 and found.poses[0].track_id is None


def test_an_empty_image_gives_no_pose():
    oracle = Oracle(PINHOLE, [])
    assert estimator(oracle).estimate(oracle.image(), PINHOLE).poses == []


def test_the_search_looks_closer_only_where_three_cells_vote_for_one_thing():
    class Few(Oracle):
        def __call__(self, image):
            outputs = super().__call__(image)
            if image.shape[3] == 640:
                outputs["scores"][0, np.flatnonzero(outputs["scores"][0, :, 0])[self.count :]] = 0
            return outputs

    for count, looks in ((2, 1), (3, 2)):
        oracle = Few(PINHOLE, [POSE])
        oracle.count = count
        estimator(oracle).estimate(oracle.image(), PINHOLE)
        assert len(oracle.sizes) == looks


def test_where_an_object_is_expected_two_cells_are_enough():
    class Two(Oracle):
        def __call__(self, image):
            outputs = super().__call__(image)
            outputs["scores"][0, np.flatnonzero(outputs["scores"][0, :, 0])[2:]] = 0
            return outputs

    oracle = Two(PINHOLE, [POSE])
    region = Region(projected_box(POSE, MODEL, PINHOLE), 1, track_id=7)
    found = estimator(oracle, pose_score=0.0).estimate(oracle.image(), PINHOLE, [region], search=False)
    assert [(p.track_id, p.cells) for p in found.poses] == [(7, 2)]


def test_poses_below_the_score_are_kept_back():
    oracle = Oracle(PINHOLE, [POSE])
    assert estimator(oracle, pose_score=0.99).estimate(oracle.image(), PINHOLE).poses == []


def test_votes_that_shrink_are_spread_to_the_true_size():
    oracle = Oracle(PINHOLE, [POSE])
    oracle.shrunk = 0.94
    without = estimator(oracle)
    decode = dataclasses.replace(without.bundle.manifest.decode, vote_scale={"1": 0.94})
    changed = dataclasses.replace(without.bundle.manifest, decode=decode)
    scaled = KeypointEstimator(dataclasses.replace(without.bundle, manifest=changed), oracle)
    far, right = (e.estimate(oracle.image(), PINHOLE).poses[0].pose[2, 3] for e in (without, scaled))
    assert far == pytest.approx(POSE[2, 3] / 0.94, rel=0.01) and right == pytest.approx(POSE[2, 3], rel=2e-3)
    larger = scaled.scaled({1: 2.0}).estimate(oracle.image(), PINHOLE).poses[0].pose[2, 3]
    assert larger == pytest.approx(2 * right, rel=1e-3)


def test_a_larger_object_is_farther_away():
    oracle = Oracle(PINHOLE, [POSE])
    found = estimator(oracle).scaled({1: 1.25}).estimate(oracle.image(), PINHOLE)
    assert found.poses[0].pose[2, 3] == pytest.approx(1.25 * POSE[2, 3], rel=0.01)


def test_image_and_camera_of_unlike_size_are_refused_with_both():
    with pytest.raises(ValueError, match="image: wanted 640x480, as its camera_info says, found 320x240"):
        estimator(Oracle(PINHOLE, [])).estimate(np.zeros((240, 320, 3), np.uint8), PINHOLE)


def test_a_box_that_leaves_the_view_is_none():
    behind = make_pose(np.eye(3), (0, 0, -1.0))
    beside = make_pose(np.eye(3), (5.0, 0, 1.0))
    assert projected_box(behind, MODEL, PINHOLE) is None and projected_box(beside, MODEL, PINHOLE) is None
    assert Crop.around(projected_box(POSE, MODEL, PINHOLE), 256).width == 256


@settings(deadline=None)
@given(
    class_score=st.floats(0, 1),
    cells=st.integers(1, 256),
    support=st.floats(0, 1),
    sigma=st.floats(0, 0.06),
    agreement=st.floats(0, 1),
    weights=st.lists(st.floats(-5, 5), min_size=5, max_size=6) | st.just([]),
)
def test_no_score_is_above_what_was_foreseen(class_score, cells, support, sigma, agreement, weights):
    most = highest_score(class_score, cells, 0.06, weights)
    score = score_of(evidence(class_score, support, cells, sigma, agreement), weights)
    solved = highest_score(class_score, cells, 0.06, weights, support)
    assert score <= solved + 1e-12 and solved <= most + 1e-12


def test_groups_that_cannot_reach_the_threshold_are_not_solved(monkeypatch):
    oracle = Oracle(PINHOLE, [POSE])
    region = Region(projected_box(POSE, MODEL, PINHOLE), 1)
    hopeless = estimator(oracle, pose_score=0.96)  # the oracle's class score is 0.95
    monkeypatch.setattr("pose_kd_ros.pipeline.keypoint.solve", None)
    assert hopeless.estimate(oracle.image(), PINHOLE, [region], search=False).poses == []


def test_poses_that_cannot_reach_the_threshold_are_not_refined(monkeypatch):
    oracle = Oracle(PINHOLE, [POSE], noise_px=3.0)
    region = Region(projected_box(POSE, MODEL, PINHOLE), 1)
    found = estimator(oracle, pose_score=0.0).estimate(oracle.image(), PINHOLE, [region], search=False)
    assert found.poses[0].support < 0.9
    monkeypatch.setattr("pose_kd_ros.pipeline.solve.refine_pose", None)
    strict = estimator(oracle, pose_score=0.95 * 0.95)  # above 0.95 times that share, below 0.95
    assert strict.estimate(oracle.image(), PINHOLE, [region], search=False).poses == []


def test_objects_of_two_classes_in_one_place_are_both_looked_at(monkeypatch):
    """Which of them is there is decided by the closer look, not by who was sure from afar."""
    oracle = Oracle(PINHOLE, [POSE])
    whole, looked = estimator(oracle), []
    whole.order = (MODEL, dataclasses.replace(MODEL, id=2))
    votes = LocalPredictions(
        np.array([[[100.0, 100], [200, 200]], [[105.0, 105], [200, 200]]]),
        np.array([0.9, 0.8]), np.array([0, 1]), np.zeros((2, 2)), np.ones(2),
    )  # fmt: skip
    monkeypatch.setattr(whole, "_groups_in", lambda *_: [votes.select([0]), votes.select([1])])
    monkeypatch.setattr(whole, "_look_at", lambda *a: looked.append(a[2].object_id) or [])
    whole.estimate(oracle.image(), PINHOLE)
    assert looked == [1, 2]


def test_a_pose_that_is_not_kept_does_not_take_the_place_of_one_that_is(monkeypatch):
    """A track needs a smaller score: its pose stays, beside a better one that is not good enough for a new
    object."""
    oracle = Oracle(PINHOLE, [POSE])
    found = estimator(oracle)
    box = projected_box(POSE, MODEL, PINHOLE)
    (pose,) = found.estimate(oracle.image(), PINHOLE, [Region(box, 1)], search=False).poses
    scores = {7: 0.4, None: 0.5}
    found.pose_score, found.keep_factor = 0.6, 0.5
    monkeypatch.setattr(
        found,
        "_look_at",
        lambda image, camera, region, watch: [
            dataclasses.replace(pose, score=scores[region.track_id], track_id=region.track_id)
        ],
    )
    regions = [Region(box, 1, 7), Region(box + 1, 1)]
    assert [p.track_id for p in found.estimate(oracle.image(), PINHOLE, regions, search=False).poses] == [7]
