# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from pose_kd_ros.core.depth_fit import refine_on_depth
from pose_kd_ros.core.edges import Refused
from pose_kd_ros.core.mesh import cast
from pose_kd_ros.core.metrics import squared_mahalanobis
from pose_kd_ros.core.refine import moved
from test.core.test_edges import BENT, CAMERA, POSE, UNSURE, errors, start_of
from test.core.test_mesh import BOX


def depth_image(pose, camera=CAMERA, noise=0.001, seed=0):
    """Depth (H, W) of the box before a wall, with noise and holes."""
    random = np.random.RandomState(seed)
    v, u = np.mgrid[100:350, 200:450]
    depth, _ = cast(BOX, pose, camera.rays(np.stack([u, v], -1).reshape(-1, 2)))
    image = np.full((480, 640), 0.9)
    image[v, u] = np.where(np.isfinite(depth), depth, 0.9).reshape(v.shape)
    image += random.normal(0, noise, image.shape)
    image[random.rand(*image.shape) < 0.1] = 0
    return image


@pytest.mark.parametrize("camera", [CAMERA, BENT], ids=["pinhole", "plumb_bob"])
@pytest.mark.parametrize("seed", range(4))
def test_a_box_is_found_to_a_millimetre(seed, camera):
    start = start_of(seed)
    pose, covariance = refine_on_depth(depth_image(POSE, camera), camera, BOX, start, UNSURE)
    assert errors(pose)[0] < 0.001 and errors(pose)[1] < 0.01
    assert squared_mahalanobis(pose, covariance, POSE) < 12.6


def test_what_stands_before_it_does_not_pull_it():
    image = depth_image(POSE)
    image[:, 300:330] = 0.3
    pose, _ = refine_on_depth(image, CAMERA, BOX, start_of(2), UNSURE)
    assert errors(pose)[0] < 0.0015


@pytest.mark.parametrize(
    ("image", "start", "covariance", "reason"),
    [
        (np.zeros((480, 640)), POSE, UNSURE, "few_depths"),
        (np.full((480, 640), 0.9), POSE, UNSURE, "few_agree"),
        (depth_image(moved(POSE, [0, 0, 0.006, 0, 0, 0])), POSE, UNSURE / 100, "too_far"),
        (depth_image(POSE), moved(POSE, [0, 0, -0.5, 0, 0, 0]), UNSURE, "few_depths"),
    ],
    ids=["nothing measured", "only a wall", "beyond the covariance", "behind the camera"],
)
def test_what_does_not_fit_is_refused(image, start, covariance, reason):
    with pytest.raises(Refused) as caught:
        refine_on_depth(image, CAMERA, BOX, start, covariance)
    assert caught.value.reason == reason
