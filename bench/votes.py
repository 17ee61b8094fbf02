# SPDX-License-Identifier: Apache-2.0
"""Cell votes of a cube under a known pose, for the benchmarks and the tests of PnP."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from pose_kd_ros.core.camera import project_pinhole
from pose_kd_ros.core.object_model import box_corners
from pose_kd_ros.core.pose import make_pose, transform
from pose_kd_ros.core.predictions import Correspondences

K = np.array([[547.74, 0, 338.7], [0, 542.07, 234.51], [0, 0, 1]])
CORNERS = box_corners((0, 0, 0), (0.084, 0.084, 0.084))


def some_pose(random) -> np.ndarray:
    """Return a random ``T_camera_object`` (4, 4), 0.3 to 1 m in front of the camera."""
    rotation = Rotation.random(random_state=int(random.integers(1 << 31))).as_matrix()
    return make_pose(rotation, [*random.uniform(-0.1, 0.1, 2), random.uniform(0.3, 1)])


def votes(random, poses, noise=1.0, outliers=0.0, shared=0.0) -> Correspondences:
    """Return one cell of eight votes for each pose; outliers: share of the votes that are up to 80 px off.

    noise: deviation of each vote, pixels. shared: deviation of an error that all votes of a cell share,
    pixels.
    """
    pixels = np.concatenate([project_pinhole(K, transform(pose, CORNERS)) for pose in poses])
    pixels += random.normal(size=pixels.shape) * noise
    if shared:
        pixels += np.repeat(random.normal(size=(len(poses), 2)) * shared, 8, axis=0)
    wrong = random.random(len(pixels)) < outliers
    pixels[wrong] += random.uniform(-80, 80, (wrong.sum(), 2))
    points, cell = np.tile(CORNERS, (len(poses), 1)), np.repeat(np.arange(len(poses)), 8)
    return Correspondences(1, pixels, points, np.ones(len(pixels)), 0.9, cell)
