# SPDX-License-Identifier: Apache-2.0
"""The dense family's runtime on a network that sees perfectly which point of a box each pixel shows."""

import dataclasses

import numpy as np
import pytest

from pose_kd_ros.bundle.manifest import BundleError, InputSpec, NetworkSpec
from pose_kd_ros.bundle.store import Bundle
from pose_kd_ros.core.metrics import mssd
from pose_kd_ros.core.surface import BITS, SurfaceCodes, balanced_order, bits_of
from pose_kd_ros.pipeline.families import make_estimator
from pose_kd_ros.pipeline.region import Region, projected_box
from pose_kd_ros.pipeline.regional import MOST_PIXELS, RegionalEstimator, decode_codes
from test.bundle.test_bundle import manifest
from test.pipeline.test_keypoint import BENT, FISHEYE, MODEL, PINHOLE, POSE, SECOND, Oracle, estimator

SPEC = InputSpec(256, 256, 8, 1.5, "rgb", [0.0] * 3, [1.0] * 3)
STRIDE = 2


def box_surface() -> SurfaceCodes:
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.042, 0.042, (1 << BITS, 3))
    side, sign = rng.integers(0, 3, 1 << BITS), rng.choice([-0.042, 0.042], 1 << BITS)
    points[np.arange(1 << BITS), side] = sign
    return SurfaceCodes(points[balanced_order(points)])


SURFACE = box_surface()


def seen_points(pose, rays) -> tuple[np.ndarray, np.ndarray]:
    """Which rays (N, 3) from the camera hit the box, and where, in the object's frame (N, 3)."""
    start, way = -pose[:3, :3].T @ pose[:3, 3], rays @ pose[:3, :3]
    low, high = (np.sort([(-0.042 - start) / way, (0.042 - start) / way], axis=0)[i] for i in (0, 1))
    enter, leave = low.max(1), high.min(1)
    return enter < leave, start + enter[:, None] * way


class CodeOracle(Oracle):
    """Recovers the crop from the picture, as Oracle does, and gives every pixel its code."""

    flips = 0.0

    def __call__(self, image):
        scale, left, top = self.crop_of(image[0] * 255)
        self.sizes.append(image.shape[2:])
        v, u = np.mgrid[0 : image.shape[2] : STRIDE, 0 : image.shape[3] : STRIDE] + (STRIDE - 1) / 2
        full = np.stack([u / scale + left, v / scale + top], -1).reshape(-1, 2)
        hit, points = seen_points(self.poses[0], self.camera.rays(full))
        codes = nearest_codes(points[hit])
        flipped = self.noise.random((len(codes), BITS)) < self.flips
        chances = np.full((BITS, hit.size), 0.5)
        chances[:, hit] = np.where(bits_of(codes) ^ flipped, 0.9, 0.1).T
        shape = u.shape
        return {
            "mask": np.where(hit, 0.9, 0.05).reshape(1, 1, *shape),
            "codes": chances.reshape(1, BITS, *shape),
        }


def nearest_codes(points) -> np.ndarray:
    from scipy.spatial import cKDTree

    return cKDTree(SURFACE.points).query(points)[1]


def dense_manifest(**changes):
    network = NetworkSpec("network.onnx", ["mask", "codes"], [STRIDE], 1, 0.1)
    files = {"network.onnx": "", "golden.npz": "", "object_000001.npz": ""}
    return manifest(**{"family": "dense", "input": SPEC, "network": network, "files": files} | changes)


@dataclasses.dataclass(frozen=True)
class BoxBundle(Bundle):
    def surface(self, object_id):
        return SURFACE


def dense(oracle, locator=None, **options) -> RegionalEstimator:
    return make_estimator(BoxBundle(None, dense_manifest(), (MODEL,)), oracle, locator, **options)


def region(camera) -> Region:
    return Region(projected_box(POSE, MODEL, camera), 1, 7)


@pytest.mark.parametrize("camera", [PINHOLE, BENT, FISHEYE], ids=["pinhole", "plumb_bob", "equidistant"])
def test_perfect_codes_give_the_pose(camera):
    oracle = CodeOracle(camera, [POSE])
    (pose,) = dense(oracle).estimate(oracle.image(), camera, [region(camera)], search=False).poses
    assert mssd(pose.pose, POSE, MODEL.corners(), MODEL.symmetries) < 0.003  # the crop is read off 8 bits
    assert pose.track_id == 7 and oracle.sizes == [(256, 256)] and pose.support > 0.9


def test_wrong_bits_cost_support_but_not_the_pose():
    oracle = CodeOracle(PINHOLE, [POSE])
    oracle.flips = 0.05  # of each bit: more than half of all codes are wrong somewhere
    (pose,) = dense(oracle, pose_score=0.0).estimate(oracle.image(), PINHOLE, [region(PINHOLE)]).poses
    assert mssd(pose.pose, POSE, MODEL.corners(), MODEL.symmetries) < 0.004 and pose.support < 0.9


def test_the_locator_says_where_to_look():
    seen = CodeOracle(PINHOLE, [POSE])
    locator = estimator(Oracle(PINHOLE, [POSE]), pose_score=0.3)
    found = dense(seen, locator).estimate(seen.image(), PINHOLE)
    assert len(found.poses) == 1 and len(seen.sizes) == 1 and "locate_network" in found.stages_ms
    known = dense(seen, locator).estimate(seen.image(), PINHOLE, [region(PINHOLE)], search=True)
    assert len(known.poses) == 1 and len(seen.sizes) == 2  # what a region shows is not looked at again


def test_without_a_locator_a_search_finds_nothing():
    oracle = CodeOracle(PINHOLE, [POSE])
    assert dense(oracle).estimate(oracle.image(), PINHOLE).poses == [] and oracle.sizes == []


def test_a_region_that_shows_another_place_gives_no_pose():
    oracle = CodeOracle(PINHOLE, [POSE])
    elsewhere = Region(projected_box(SECOND, MODEL, PINHOLE), 1)
    assert dense(oracle).estimate(oracle.image(), PINHOLE, [elsewhere]).poses == []
    assert (
        dense(oracle)
        .estimate(oracle.image(), PINHOLE, [dataclasses.replace(region(PINHOLE), object_id=5)])
        .poses
        == []
    )


def test_a_region_of_any_class_is_of_the_class_that_is_seen():
    oracle = CodeOracle(PINHOLE, [POSE])
    anything = Region(region(PINHOLE).box)
    assert [p.object_id for p in dense(oracle).estimate(oracle.image(), PINHOLE, [anything]).poses] == [1]


def test_an_object_twice_as_large_is_twice_as_far():
    oracle = CodeOracle(PINHOLE, [POSE])
    (pose,) = dense(oracle).scaled({1: 2.0}).estimate(oracle.image(), PINHOLE, [region(PINHOLE)]).poses
    assert np.allclose(pose.pose[:3, 3], 2 * POSE[:3, 3], atol=0.005)


def test_a_locator_for_other_objects_is_refused():
    locator = estimator(Oracle(PINHOLE, [POSE]))
    locator.objects = {9: MODEL}
    with pytest.raises(BundleError, match=r"locator: it finds objects \[9\].*\[1\]"):
        dense(CodeOracle(PINHOLE, [POSE]), locator)


def test_unsure_bits_end_what_a_pixel_knows():
    codes = np.full((BITS, 4, 4), 0.9)
    codes[6, 1] = 0.5  # the seventh bit of one row
    codes[2, 2] = 0.45  # too early: the row is left out
    found = decode_codes(np.full((4, 4), 0.8), codes, SURFACE, 2, 0.5, 1)
    last, middle = SURFACE.points[-1], SURFACE.points.reshape(64, -1, 3)[-1].mean(0)
    assert (
        len(found.image) == 12
        and np.allclose(found.object[:4], last)
        and np.allclose(found.object[4:8], middle, atol=1e-6)
    )
    assert (found.weight[4:8] < found.weight[:4]).all() and found.image[0].tolist() == [0.5, 0.5]


def test_large_masks_are_thinned_evenly():
    found = decode_codes(np.ones((128, 128)), np.full((BITS, 128, 128), 0.9), SURFACE, 2, 0.5, 1)
    assert MOST_PIXELS / 2 < len(found.image) <= MOST_PIXELS and np.ptp(found.image[:, 1]) > 240


def test_an_empty_mask_is_no_object():
    found = decode_codes(np.zeros((8, 8)), np.full((BITS, 8, 8), 0.9), SURFACE, 2, 0.5, 1)
    assert len(found.image) == 0 and found.score == 0


def test_a_dense_bundle_without_a_surface_is_refused():
    with pytest.raises(BundleError, match=r"object_000001\.npz"):
        dense_manifest(files={"network.onnx": "", "golden.npz": ""})
