# SPDX-License-Identifier: Apache-2.0
import dataclasses

import numpy as np
import pytest

from bench.votes import CORNERS, K, some_pose, votes
from pose_kd_ros.core import refine
from pose_kd_ros.core.camera import project_pinhole
from pose_kd_ros.core.pnp import solve_pnp
from pose_kd_ros.core.pose import make_pose, rotation_angle, transform
from pose_kd_ros.core.predictions import Correspondences
from pose_kd_ros.core.refine import LONGEST, SIGMA_FLOOR, moved, noise, projection, refine_pose


def error_of(found, pose):
    """The small change (6,) that leads from ``pose`` to ``found``."""
    turn = found[:3, :3] @ pose[:3, :3].T
    w = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]]) / 2
    return np.r_[found[:3, 3] - pose[:3, 3], w]


def test_moved_by_hand():
    pose = make_pose(np.eye(3), [0, 0, 1.0])
    np.testing.assert_allclose(moved(pose, [0.1, 0, 0, 0, 0, 0]), make_pose(np.eye(3), [0.1, 0, 1]))
    turned = moved(pose, [0, 0, 0, 0, 0, np.pi / 2])  # about the camera's z through the object's origin
    np.testing.assert_allclose(transform(turned, [[1, 0, 0]]), [[0, 1, 1]], atol=1e-12)
    step = np.arange(6) * 1e-4
    np.testing.assert_allclose(error_of(moved(pose, step), pose), step, atol=1e-9)


def test_jacobian_against_finite_differences():
    random = np.random.default_rng(0)
    for _ in range(10):
        pose = some_pose(random)
        _, jacobian = projection(pose, CORNERS, K)
        for i, step in enumerate(np.eye(6) * 1e-6):
            up, down = (projection(moved(pose, s), CORNERS, K)[0] for s in (step, -step))
            np.testing.assert_allclose(jacobian[..., i], (up - down) / 2e-6, rtol=1e-5, atol=1e-4)


def test_exact_votes_from_a_poor_start():
    random = np.random.default_rng(1)
    for _ in range(20):
        pose = some_pose(random)
        start = moved(pose, random.normal(size=6) * [0.002, 0.002, 0.005, 0.03, 0.03, 0.03])
        result = refine_pose(start, votes(random, [pose], noise=0), K, threshold_px=20)
        np.testing.assert_allclose(result.pose, pose, atol=1e-8)
        assert result.inliers.all()


def test_beats_its_start_among_outliers():
    random, before, after = np.random.default_rng(2), [], []
    for _ in range(40):
        pose = some_pose(random)
        c = votes(random, [pose] * 8, outliers=0.3)
        start = solve_pnp(c, K)
        before.append(np.linalg.norm(start.pose[:3, 3] - pose[:3, 3]))
        result = refine_pose(start.pose, c, K)
        after.append(np.linalg.norm(result.pose[:3, 3] - pose[:3, 3]))
    assert np.median(after) < 0.6 * np.median(before)


def test_noise_and_its_floor():
    residual, even = np.random.default_rng(3).normal(size=(2000, 2)) * 3, np.ones(2000)
    square = (residual**2).sum(1)
    assert noise(square, even) == pytest.approx(3, rel=0.05)
    square[:400] += 100**2
    assert noise(square, even) == pytest.approx(3, rel=0.4)
    assert noise(square, np.arange(2000) >= 400) == pytest.approx(3, rel=0.05)
    assert noise(np.zeros(8), np.ones(8)) == SIGMA_FLOOR


def test_lengthened_steps_come_nearer_to_the_end_than_as_many_plain_ones(monkeypatch):
    random, scenes = np.random.default_rng(4), []
    for _ in range(40):
        pose = some_pose(random)
        c = votes(random, [pose] * 8, noise=2, outliers=0.5)
        scenes.append((solve_pnp(c, K).pose, c))

    def places(steps, longest):
        monkeypatch.setattr(refine, "LONGEST", longest)
        return np.array([refine_pose(start, c, K, 5.0, steps).pose[:3, 3] for start, c in scenes])

    end = places(200, 1.0)
    plain, lengthened = (np.linalg.norm(places(4, n) - end, axis=1) for n in (1.0, LONGEST))
    assert np.median(lengthened) < 0.5 * np.median(plain)
    assert np.quantile(lengthened, 0.9) < 0.6 * np.quantile(plain, 0.9)


def test_relaxation_by_hand():
    steps = np.outer([4.0, 2.0], np.eye(6)[2])  # 4, 2, 1 ... leads to 8: after 4, twice the step of 2
    assert refine._relaxation(1.0, *steps) == pytest.approx(2)
    assert refine._relaxation(2.0, np.eye(6)[0], np.zeros(6)) == 2  # it was right so
    assert refine._relaxation(1.0, np.eye(6)[0], -np.eye(6)[0]) == 1  # never shortened
    assert refine._relaxation(1.0, np.eye(6)[0], np.eye(6)[0]) == refine.LONGEST


def shared_noise(random, pose, cells, sigma=1.0):
    """All cells err alike: one error for each keypoint."""
    image = project_pinhole(K, transform(pose, CORNERS)) + random.normal(size=(8, 2)) * sigma
    points = np.tile(CORNERS, (cells, 1))
    return Correspondences(1, np.tile(image, (cells, 1)), points, np.ones(8 * cells), 1.0)


def leaning_noise(random, pose, known=True):
    """One vote a keypoint and edge middle, each ten times as sure in one direction as across."""
    points = np.concatenate([CORNERS, (CORNERS[:, None] + CORNERS[None])[np.triu_indices(8, 1)] / 2])
    turn = random.uniform(0, np.pi, len(points))
    axes = np.stack([np.cos(turn), np.sin(turn), -np.sin(turn), np.cos(turn)], -1).reshape(-1, 2, 2)
    error = np.einsum("mij,mj->mi", axes, random.normal(size=(len(points), 2)) * (0.3, 3.0))
    covariance = np.einsum("mij,j,mkj->mik", axes, (0.09, 9.0), axes) if known else None
    image = project_pinhole(K, transform(pose, points)) + error
    return Correspondences(1, image, points, np.ones(len(points)), 1.0, None, covariance)


def mean_surprise(make, seed=4, count=300):
    """Mean normalised squared error; 7.5 is right where the noise is estimated from 16 - 6 freedoms."""
    random, errors = np.random.default_rng(seed), []
    for _ in range(count):
        pose = some_pose(random)
        result = refine_pose(pose, make(random, pose), K, threshold_px=8)
        error = error_of(result.pose, pose)
        errors.append(error @ np.linalg.solve(result.covariance, error))
    return np.mean(errors)


@pytest.mark.parametrize("cells", [1, 25])
def test_covariance_tells_the_error_of_cells_that_err_alike(cells):
    assert 5 < mean_surprise(lambda random, pose: shared_noise(random, pose, cells)) < 11


def test_covariance_tells_the_error_of_cells_that_err_apart():
    assert 5 < mean_surprise(lambda random, pose: votes(random, [pose] * 9, noise=2.0)) < 11


def test_whitening_by_hand():
    covariance = np.array([1.0, 4.0, 16.0])[:, None, None] * np.eye(2)
    c = Correspondences(1, np.zeros((3, 2)), CORNERS[:3], np.ones(3), 1.0, None, covariance)
    found = c.whitening(np.ones(3, bool)) @ [2, 0]
    np.testing.assert_allclose(found, [[4, 0], [2, 0], [1, 0]], atol=1e-12)


def test_known_covariances_lead_nearer_to_the_truth():
    errors = {True: [], False: []}
    for seed in range(60):
        pose = some_pose(np.random.default_rng(seed))
        for known, found in errors.items():
            c = leaning_noise(np.random.default_rng(100 + seed), pose, known)
            start = solve_pnp(c, K, threshold_px=8).pose
            refined = refine_pose(start, c, K, threshold_px=8).pose
            off = transform(refined, CORNERS) - transform(pose, CORNERS)
            found.append(np.linalg.norm(off, axis=1).mean())
    assert np.mean(errors[True]) < 0.6 * np.mean(errors[False])


def test_covariance_tells_the_error_of_votes_of_unequal_sureness():
    """The noise is estimated from many freedoms, so 6 is right."""
    assert 4 < mean_surprise(leaning_noise) < 9


@pytest.mark.parametrize("cells", [1, 9])
def test_equal_round_covariances_are_the_scalar_path(cells):
    random = np.random.default_rng(13)
    pose = some_pose(random)
    c = votes(random, [pose] * cells, outliers=0.1)
    round_ = dataclasses.replace(c, covariance=np.tile(np.eye(2) * 5.0, (8 * cells, 1, 1)))
    start, other = solve_pnp(c, K), solve_pnp(round_, K)
    np.testing.assert_allclose(other.pose, start.pose, atol=1e-12)
    plain, whitened = refine_pose(start.pose, c, K), refine_pose(start.pose, round_, K)
    np.testing.assert_allclose(whitened.pose, plain.pose, atol=1e-9)
    np.testing.assert_array_equal(whitened.inliers, plain.inliers)
    assert whitened.sigma_px == pytest.approx(plain.sigma_px)
    if cells == 1:
        np.testing.assert_allclose(whitened.covariance, plain.covariance, rtol=1e-6)


@pytest.mark.parametrize(
    ("covariance", "message"),
    [(np.ones((8, 2)), r"wanted \(8, 2, 2\), found \(8, 2\)"), (np.zeros((8, 2, 2)), "positive definite")],
)
def test_covariances_that_are_none_are_refused(covariance, message):
    with pytest.raises(ValueError, match=f"Correspondences.covariance: .*{message}"):
        Correspondences(1, np.zeros((8, 2)), CORNERS, np.ones(8), 1.0, None, covariance)


def test_copied_cells_do_not_make_it_surer():
    random = np.random.default_rng(5)
    pose = some_pose(random)
    one = refine_pose(pose, shared_noise(np.random.default_rng(6), pose, 1), K)
    many = refine_pose(pose, shared_noise(np.random.default_rng(6), pose, 25), K)
    np.testing.assert_allclose(many.pose, one.pose, atol=1e-7)
    np.testing.assert_allclose(many.covariance, one.covariance, rtol=1e-4)


def test_depth_is_less_sure_than_sideways():
    pose = make_pose(np.eye(3), [0, 0, 1.0])
    covariance = refine_pose(pose, shared_noise(np.random.default_rng(7), pose, 3), K).covariance
    assert covariance[2, 2] > 10 * max(covariance[0, 0], covariance[1, 1])
    assert (np.linalg.eigvalsh(covariance) > 0).all()
    np.testing.assert_array_equal(covariance, covariance.T)


def test_weights_count():
    """Two modes 4 px apart: the pose goes with the heavier one."""
    pose = make_pose(np.eye(3), [0, 0, 0.5])
    image = project_pinhole(K, transform(pose, CORNERS))
    image = np.concatenate([image, image + [4, 0]])
    points, weight = np.tile(CORNERS, (2, 1)), np.repeat([0.05, 1.0], 8)
    result = refine_pose(pose, Correspondences(1, image, points, weight, 1.0), K, threshold_px=10)
    shift = project_pinhole(K, result.pose[:3, 3]) - project_pinhole(K, pose[:3, 3])
    np.testing.assert_allclose(shift, [4, 0], atol=0.4)


@pytest.mark.filterwarnings("error")
def test_too_little_gives_none():
    pose = make_pose(np.eye(3), [0, 0, 0.5])
    c = shared_noise(np.random.default_rng(8), pose, 2, sigma=0.0)
    three = np.arange(16) % 8 < 3
    for rows in (three, np.zeros(16, bool)):
        few = Correspondences(1, c.image[rows], c.object[rows], c.weight[rows], 1.0)
        assert refine_pose(pose, few, K) is None
    far_off = Correspondences(1, c.image + 100, c.object, c.weight, 1.0)
    line = Correspondences(
        1, np.tile(K[:2, 2], (8, 1)), np.linspace(-1, 1, 8)[:, None] * [0, 0, 0.1], np.ones(8), 1.0
    )
    askew_points = np.linspace(-1, 1, 8)[:, None] * [0.05, 0.02, 0.01]
    askew_image = project_pinhole(K, transform(pose, askew_points))
    askew = Correspondences(1, askew_image, askew_points, np.ones(8), 1.0)
    nowhere = Correspondences(1, c.image * np.nan, c.object, c.weight, 1.0)
    for hopeless in (far_off, line, askew, nowhere):
        assert refine_pose(pose, hopeless, K) is None


def test_a_minority_within_the_threshold_hardly_pulls():
    """Two of eight cells are 5 px off; least squares would follow by 1.25 px."""
    pose = make_pose(np.eye(3), [0, 0, 0.5])
    c = votes(np.random.default_rng(10), [pose] * 8, noise=0.3)
    c.image[c.cell >= 6, 0] += 5
    result = refine_pose(pose, c, K, threshold_px=8)
    shift = project_pinhole(K, result.pose[:3, 3]) - project_pinhole(K, pose[:3, 3])
    assert np.abs(shift).max() < 0.25


def test_perfect_votes_are_not_perfectly_sure():
    pose = make_pose(np.eye(3), [0, 0, 0.5])
    result = refine_pose(pose, shared_noise(np.random.default_rng(11), pose, 4, sigma=0.0), K)
    assert result.sigma_px == SIGMA_FLOOR
    sideways = SIGMA_FLOOR / K[0, 0] * 0.5 / np.sqrt(8)
    assert np.sqrt(result.covariance[0, 0]) == pytest.approx(sideways, rel=0.3)


def test_dense_votes_count_as_64_at_most():
    pose, random = make_pose(np.eye(3), [0, 0, 0.5]), np.random.default_rng(12)
    spread = []
    for count in (1000, 4000):
        points = random.uniform(-0.04, 0.04, (count, 3))
        image = project_pinhole(K, transform(pose, points)) + random.normal(size=(count, 2))
        covariance = refine_pose(pose, Correspondences(1, image, points, np.ones(count), 1.0), K).covariance
        spread.append(np.sqrt(np.diag(covariance)))
    np.testing.assert_allclose(spread[0], spread[1], rtol=0.1)


def test_pose_stays_rigid():
    random = np.random.default_rng(9)
    pose = some_pose(random)
    rotation = refine_pose(pose, votes(random, [pose] * 3), K).pose[:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.degrees(rotation_angle(rotation, pose[:3, :3])) < 5
