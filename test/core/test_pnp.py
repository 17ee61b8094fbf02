# SPDX-License-Identifier: Apache-2.0
import dataclasses

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from bench.votes import CORNERS, K, some_pose, votes
from pose_kd_ros.core.camera import project_pinhole
from pose_kd_ros.core.pnp import solve_pnp, squared_errors
from pose_kd_ros.core.pose import make_pose, rotation_angle, transform
from pose_kd_ros.core.predictions import Correspondences

QUARTER = make_pose(Rotation.from_rotvec([0, 0, np.pi / 2]).as_matrix(), np.zeros(3))


def close(found, pose):
    """Within 10 degrees and 5 % of the distance: the right answer, before refinement."""
    degrees = np.degrees(rotation_angle(found[:3, :3], pose[:3, :3]))
    return degrees < 10 and np.linalg.norm(found[:3, 3] - pose[:3, 3]) < 0.05 * pose[2, 3]


def test_exact_votes_give_the_pose():
    random = np.random.default_rng(0)
    for _ in range(20):
        pose = some_pose(random)
        result = solve_pnp(votes(random, [pose], noise=0), K)
        np.testing.assert_allclose(result.pose, pose, atol=1e-6)
        assert result.inliers.all() and result.support == pytest.approx(1)


@pytest.mark.parametrize("cells, wanted", [(1, 17), (8, 20), (25, 20)])
def test_thirty_percent_outliers(cells, wanted):
    random, good = np.random.default_rng(1), 0
    for _ in range(20):
        pose = some_pose(random)
        result = solve_pnp(votes(random, [pose] * cells, outliers=0.3), K)
        good += result is not None and close(result.pose, pose)
    assert good >= wanted


def test_locks_on_the_biggest_mode():
    """Of 25 cells, 13 vote for the pose and 12 for two quarter turns of it."""
    random, good = np.random.default_rng(2), 0
    for _ in range(20):
        pose = some_pose(random)
        modes = [pose] * 13 + [pose @ QUARTER] * 6 + [pose @ QUARTER @ QUARTER] * 6
        result = solve_pnp(votes(random, modes, outliers=0.2), K)
        good += close(result.pose, pose)
    assert good >= 19


def test_cells_find_a_mode_that_single_votes_do_not():
    """Twelve modes of two cells each, 40 % outliers: only triples within a cell have a fair chance."""
    random, found = np.random.default_rng(3), {"with": 0, "without": 0}
    for _ in range(30):
        poses = [some_pose(random) for _ in range(12)]
        together = votes(random, [p for p in poses for _ in range(2)], noise=0.5, outliers=0.4)
        apart = Correspondences(1, together.image, together.object, together.weight, 1.0)
        for name, given in (("with", together), ("without", apart)):
            result = solve_pnp(given, K)
            found[name] += result is not None and any(close(result.pose, p) for p in poses)
    assert found["with"] >= 27 and found["with"] > found["without"]


def test_heavier_votes_win():
    random = np.random.default_rng(4)
    pose = some_pose(random)
    c = votes(random, [pose @ QUARTER] * 3 + [pose] * 2, noise=0.3)
    weight = np.where(c.cell < 3, 0.1, 0.9)
    result = solve_pnp(Correspondences(1, c.image, c.object, weight, 1.0, c.cell), K)
    assert close(result.pose, pose)
    assert result.support == pytest.approx(0.9 * 16 / (0.9 * 16 + 0.1 * 24), abs=0.1)


def test_is_deterministic():
    c = votes(np.random.default_rng(5), [some_pose(np.random.default_rng(6))] * 5, outliers=0.4)
    first, second = solve_pnp(c, K), solve_pnp(c, K)
    np.testing.assert_array_equal(first.pose, second.pose)
    np.testing.assert_array_equal(first.inliers, second.inliers)


def test_votes_that_are_not_finite_are_left_out():
    random = np.random.default_rng(7)
    pose = some_pose(random)
    c = votes(random, [pose] * 3, noise=0)
    c.image[::3], c.weight[1] = np.nan, np.nan
    result = solve_pnp(c, K)
    np.testing.assert_allclose(result.pose, pose, atol=1e-6)
    assert not result.inliers[::3].any() and not result.inliers[1] and result.support == pytest.approx(1)


def test_too_little_gives_none():
    c = votes(np.random.default_rng(8), [some_pose(np.random.default_rng(9))], noise=0)
    few = [Correspondences(1, c.image[:n], c.object[:n], c.weight[:n], 1.0) for n in (0, 3)]
    none_weighs = Correspondences(1, c.image, c.object, np.zeros(8), 1.0)
    one_place = Correspondences(1, c.image, np.zeros((8, 3)), c.weight, 1.0)
    line = Correspondences(1, c.image, np.linspace(0, 0.1, 8)[:, None] * np.ones(3), c.weight, 1.0)
    nowhere = Correspondences(1, np.full((8, 2), np.nan), c.object, c.weight, 1.0)
    for hopeless in (*few, none_weighs, one_place, line, nowhere):
        assert solve_pnp(hopeless, K) is None


def test_three_places_are_not_enough():
    c = votes(np.random.default_rng(12), [some_pose(np.random.default_rng(13))] * 5, noise=0)
    three = np.arange(40) % 8 < 3
    assert solve_pnp(Correspondences(1, c.image[three], c.object[three], c.weight[three], 1.0), K) is None


def test_squared_errors_of_votes_that_share_points_are_those_of_each_alone():
    random = np.random.default_rng(14)
    poses = np.stack([some_pose(random) for _ in range(3)])
    place, image = np.array([0, 1, 0, 7, 7]), random.uniform(0, 500, (5, 2))
    whitening = random.normal(size=(5, 2, 2))
    for given in (None, whitening):
        errors = squared_errors(poses, image, CORNERS, place, K, given)
        for j, pose in enumerate(poses):
            gaps = project_pinhole(K, transform(pose, CORNERS))[place] - image
            wanted = [float(((w @ gap) ** 2).sum()) for w, gap in zip(whitening, gaps)]
            np.testing.assert_allclose(errors[:, j], wanted if given is not None else (gaps**2).sum(1))


def test_a_vote_that_is_unsure_sideways_may_be_off_sideways():
    c = votes(np.random.default_rng(15), [some_pose(np.random.default_rng(16))] * 3, noise=0)
    c.image[5] += (8, 0)
    sure = np.tile(np.eye(2), (24, 1, 1))
    unsure = sure.copy()
    unsure[5] = np.diag([100.0, 1.0])
    for covariance, held in ((sure, False), (unsure, True)):
        found = solve_pnp(dataclasses.replace(c, covariance=covariance), K)
        assert found.inliers[5] == held and np.delete(found.inliers, 5).all()


def test_points_behind_the_camera_are_no_inliers():
    """A point mirrored through the camera's centre projects to the same pixel."""
    ahead, behind = make_pose(np.eye(3), [0, 0, 1.0]), make_pose(-np.eye(3), [0, 0, -1.0])
    image = project_pinhole(K, transform(ahead, CORNERS))
    errors = squared_errors(np.stack([ahead, behind]), image, CORNERS, np.arange(8), K)
    np.testing.assert_allclose(errors[:, 0], 0, atol=1e-18)
    assert np.isinf(errors[:, 1]).all()


@pytest.mark.filterwarnings("error")
def test_noise_never_gives_a_pose_behind_too_far_or_nan():
    random = np.random.default_rng(10)
    for _ in range(100):
        cells = int(random.integers(1, 6))
        c = votes(random, [some_pose(random)] * cells)
        image = random.uniform(-200, 900, c.image.shape) * random.choice([1, 1e-3, 0, 1e4])
        result = solve_pnp(Correspondences(1, image, c.object, c.weight, 1.0, c.cell), K)
        if result is not None:
            assert np.isfinite(result.pose).all()
            seen = transform(result.pose, c.object[result.inliers])
            assert (seen[:, 2] > 0).all() and result.pose[2, 3] < 200 * 0.084


def test_dense_votes():
    """Thousands of different object points, each its own cell."""
    random = np.random.default_rng(11)
    pose, points = some_pose(random), random.uniform(-0.04, 0.04, (5000, 3))
    pixels = project_pinhole(K, transform(pose, points)) + random.normal(size=(5000, 2))
    pixels[:1500] = random.uniform(0, 480, (1500, 2))
    result = solve_pnp(Correspondences(1, pixels, points, np.ones(5000), 1.0), K)
    assert close(result.pose, pose)
    assert result.inliers[1500:].mean() > 0.9 and result.inliers[:1500].mean() < 0.1
