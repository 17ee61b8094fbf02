# SPDX-License-Identifier: Apache-2.0
"""The surface family's runtime on a network that sees perfectly which point of a box each pixel shows."""

import numpy as np
import pytest

from pose_kd_ros.bundle.manifest import InputSpec, NetworkSpec
from pose_kd_ros.bundle.store import Bundle
from pose_kd_ros.core.metrics import mssd
from pose_kd_ros.pipeline.families import make_estimator
from pose_kd_ros.pipeline.region import Region, projected_box
from pose_kd_ros.pipeline.surface import decode_surface
from test.bundle.test_bundle import manifest
from test.pipeline.test_keypoint import BENT, FISHEYE, MODEL, PINHOLE, POSE, SECOND, Oracle, estimator
from test.pipeline.test_regional import seen_points

SPEC = InputSpec(128, 480, 32, 1.25, "rgb", [0.0] * 3, [1.0] * 3)
STRIDE = 4
RADIUS = MODEL.diameter / 2


class SurfaceOracle(Oracle):
    """Recovers the crop from the picture, as Oracle does, and gives every output pixel its surface point."""

    wrong = 0.0  # share of pixels with a random point, which they are unsure of

    def __call__(self, image):
        scale, left, top = self.crop_of(image[0] * 255)
        self.sizes.append(image.shape[2:])
        v, u = np.mgrid[0 : image.shape[2] : STRIDE, 0 : image.shape[3] : STRIDE] + (STRIDE - 1) / 2
        rays = self.camera.rays(np.stack([u / scale + left, v / scale + top], -1).reshape(-1, 2))
        mask, points = np.full(len(rays), 0.02), np.zeros((len(rays), 3))
        spread = np.full(len(rays), 0.01)
        for pose in self.poses:
            hit, seen = seen_points(pose, rays)
            mask[hit], points[hit] = 0.9, seen[hit] / RADIUS
        astray = self.noise.random(len(rays)) < self.wrong
        points[astray], spread[astray] = self.noise.uniform(-1, 1, (astray.sum(), 3)), 0.5
        return {
            "mask": mask.reshape(1, 1, *u.shape),
            "points": points.T.reshape(1, 1, 3, *u.shape),
            "scale": spread.reshape(1, 1, *u.shape),
        }


def surface(oracle, locator=None, object_files=None, **options):
    network = NetworkSpec("network.onnx", ["mask", "points", "scale"], [STRIDE], 1, 0.1, object_files or {})
    files = dict.fromkeys(["network.onnx", "golden.npz", *network.object_files.values()], "00")
    spec = manifest(family="surface", input=SPEC, network=network, files=files)
    return make_estimator(Bundle(None, spec, (MODEL,)), oracle, locator, **options)


def error(pose, truth=POSE):
    return mssd(pose.pose, truth, MODEL.corners(), MODEL.symmetries)


@pytest.mark.parametrize("camera", [PINHOLE, BENT, FISHEYE], ids=["pinhole", "plumb_bob", "equidistant"])
def test_the_same_network_searches_the_frame_and_then_looks_closely(camera):
    oracle = SurfaceOracle(camera, [POSE])
    found = surface(oracle).estimate(oracle.image(), camera)
    assert oracle.sizes == [(384, 480), (128, 128)] and "locate_network" in found.stages_ms
    (pose,) = found.poses
    assert error(pose) < 0.003 and pose.support > 0.9  # the crop is read off 8 bits


def test_two_objects_of_a_class_are_both_found():
    oracle = SurfaceOracle(PINHOLE, [POSE, SECOND])
    poses = surface(oracle).estimate(oracle.image(), PINHOLE).poses
    assert sorted(error(p, t) < 0.004 for p in poses for t in (POSE, SECOND)) == [False, False, True, True]


def test_wrong_points_that_the_network_is_unsure_of_do_not_move_the_pose():
    oracle = SurfaceOracle(PINHOLE, [POSE])
    oracle.wrong = 0.3
    (pose,) = surface(oracle, pose_score=0.0).estimate(oracle.image(), PINHOLE).poses
    assert error(pose) < 0.004


def test_a_region_is_looked_at_without_a_search():
    oracle = SurfaceOracle(PINHOLE, [POSE])
    region = Region(projected_box(POSE, MODEL, PINHOLE), 1, 7)
    (pose,) = surface(oracle).estimate(oracle.image(), PINHOLE, [region], search=False).poses
    assert oracle.sizes == [(128, 128)] and pose.track_id == 7


class WithOwnNetwork(SurfaceOracle):
    """Object 1 has a network of its own; the network that searches knows nothing of its points."""

    def __call__(self, image, object_id=None):
        outputs = super().__call__(image)
        if object_id is None and image.shape[3] == 128:
            outputs["points"] = np.zeros_like(outputs["points"])
        self.asked = (*getattr(self, "asked", ()), object_id)
        return outputs


@pytest.mark.parametrize(
    "object_id, asked", [(1, (1,)), (None, (None, 1))], ids=["of a known object", "of an unknown one"]
)
def test_an_objects_own_network_looks_at_a_region(object_id, asked):
    oracle = WithOwnNetwork(PINHOLE, [POSE])
    region = Region(projected_box(POSE, MODEL, PINHOLE), object_id, 7)
    looking = surface(oracle, object_files={"1": "object_000001.onnx"})
    (pose,) = looking.estimate(oracle.image(), PINHOLE, [region], search=False).poses
    assert error(pose) < 0.003 and oracle.asked == asked


def test_the_frame_is_searched_for_an_object_with_its_own_network():
    oracle = WithOwnNetwork(PINHOLE, [POSE])
    looking = surface(oracle, object_files={"1": "object_000001.onnx"})
    (pose,) = looking.estimate(oracle.image(), PINHOLE).poses
    assert error(pose) < 0.003 and oracle.asked == (None, 1)


def test_an_empty_frame_has_no_pose():
    oracle = SurfaceOracle(PINHOLE, [])
    assert surface(oracle).estimate(oracle.image(), PINHOLE).poses == []


def test_another_locator_can_be_given():
    oracle = SurfaceOracle(PINHOLE, [POSE])
    locator = estimator(Oracle(PINHOLE, [POSE]), pose_score=0.3)
    found = surface(oracle, locator).estimate(oracle.image(), PINHOLE)
    assert len(found.poses) == 1 and oracle.sizes == [(128, 128)]


def test_an_object_twice_as_large_is_twice_as_far():
    oracle = SurfaceOracle(PINHOLE, [POSE])
    (pose,) = surface(oracle).scaled({1: 2.0}).estimate(oracle.image(), PINHOLE).poses
    assert np.allclose(pose.pose[:3, 3], 2 * POSE[:3, 3], atol=0.005)


def test_pixels_are_centred_in_their_cells_and_points_are_in_metres():
    maps = {
        "mask": np.zeros((1, 1, 2, 2)),
        "points": np.zeros((1, 1, 3, 2, 2)),
        "scale": np.ones((1, 1, 2, 2)),
    }
    maps["mask"][0, 0, 1, 0], maps["points"][0, 0, :, 1, 0] = 0.8, (1, 0, -0.5)
    found = decode_surface(maps, 0, MODEL, 4, 0.5)
    assert found.image.tolist() == [[1.5, 5.5]] and found.score == 0.8
    assert np.allclose(found.object, [[RADIUS, 0, -RADIUS / 2]])


def test_a_pixel_twice_as_unsure_as_the_median_weighs_a_quarter():
    maps = {"mask": np.full((1, 1, 1, 5), 0.9), "points": np.zeros((1, 1, 3, 1, 5))}
    maps["scale"] = np.array([1, 1, 1, 2, 9.0]).reshape(1, 1, 1, 5)
    found = decode_surface(maps, 0, MODEL, 4, 0.5)
    assert np.allclose(found.weight / 0.9, [1, 1, 1, 0.25])  # the least sure fifth is left out


def test_points_that_are_too_close_together_are_spread_about_their_mean():
    maps = {"mask": np.full((1, 1, 1, 5), 0.9), "scale": np.ones((1, 1, 1, 5))}
    maps["points"] = np.zeros((1, 1, 3, 1, 5))
    maps["points"][0, 0, 0] = [[0.1, 0.2, 0.3, 0.4, 0.0]]  # the last is left out
    found = decode_surface(maps, 0, MODEL, 4, 0.5, 0.5)
    assert np.allclose(found.object[:, 0] / RADIUS, [-0.05, 0.15, 0.35, 0.55])


def test_where_the_pose_lies_elsewhere_than_looked_for_it_is_looked_at_again():
    oracle = SurfaceOracle(PINHOLE, [POSE])
    x0, y0, x1, y1 = projected_box(POSE, MODEL, PINHOLE)
    wide = Region(np.array([x0 - 0.3 * (x1 - x0), y0 - 0.3 * (y1 - y0), x1, y1]), 1, 7)
    (pose,) = surface(oracle).estimate(oracle.image(), PINHOLE, [wide], search=False).poses
    assert len(oracle.sizes) == 2 and error(pose) < 0.003 and pose.track_id == 7
    assert np.allclose(pose.box, (x0, y0, x1, y1), atol=2)
