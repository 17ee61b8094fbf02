# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from scipy.spatial.distance import pdist

from pose_kd_ros.core.extent import FEW, diameter


@pytest.mark.parametrize("kind", ["cloud", "ball", "stick", "lattice"])
@pytest.mark.parametrize("count", [1, 2, 100, FEW + 500])
def test_the_largest_distance_is_exact(kind, count):
    points = np.random.default_rng(count).normal(size=(count, 3))
    if kind == "ball":
        points /= np.linalg.norm(points, axis=1, keepdims=True)
    if kind == "stick":
        points[:, 1:] = 0
    if kind == "lattice":
        points = np.round(points)
    assert diameter(points) == (pdist(points).max() if count > 1 else 0.0)


def test_a_ball_of_many_points_needs_no_table_of_distances():
    points = np.random.default_rng(0).normal(size=(60_000, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    assert 1.9999 < diameter(points) <= 2.0 + 1e-12  # a table of all distances would hold 14 GB
