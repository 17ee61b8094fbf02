# SPDX-License-Identifier: Apache-2.0
import numpy as np
from scipy.spatial.transform import Rotation

from pose_kd_ros.core.p3p import solve_p3p
from pose_kd_ros.core.pose import make_pose, transform


def scenes(count=300, seed=0):
    random = np.random.default_rng(seed)
    t = np.c_[random.normal(size=(count, 2)) * 0.1, random.uniform(0.3, 2, count)]
    poses = make_pose(Rotation.random(count, random_state=seed).as_matrix(), t)
    return poses, random.normal(size=(count, 3, 3)) * 0.05


def rays_of(poses, points):
    seen = np.stack([transform(pose, p) for pose, p in zip(poses, points)])
    return seen / np.linalg.norm(seen, axis=-1, keepdims=True)


def test_the_true_pose_is_among_the_solutions():
    poses, points = scenes()
    found = solve_p3p(rays_of(poses, points), points)
    errors = np.abs(poses[:, None] - found[None]).max((2, 3)).min(1)
    assert errors.max() < 1e-6
    assert len(poses) <= len(found) <= 4 * len(poses)


def test_every_solution_puts_the_points_on_the_rays():
    poses, points = scenes(1)
    rays = rays_of(poses, points)
    for pose in solve_p3p(rays, points):
        np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-9)
        np.testing.assert_allclose(rays_of([pose], points), rays, atol=1e-6)


def test_degenerate_triples_give_nothing():
    same = np.zeros((2, 3, 3))
    rays = np.tile([0.0, 0, 1], (2, 3, 1))
    assert solve_p3p(rays, same).shape == (0, 4, 4)
    line = np.linspace(0, 1, 3)[None, :, None] * np.ones(3)
    assert np.isfinite(solve_p3p(rays[:1], line)).all()
    assert solve_p3p(np.zeros((0, 3, 3)), np.zeros((0, 3, 3))).shape == (0, 4, 4)
