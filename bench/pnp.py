# SPDX-License-Identifier: Apache-2.0
"""Compare this package's PnP solver with OpenCV's, on the same synthetic cell votes.

    python bench/pnp.py [trials]

Prints, for each kind of scene: time and its ratio to OpenCV's AP3P RANSAC in the same run, the share of right
poses (within 5 degrees and 2 cm after the same refinement), and the median errors of those.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from bench.votes import K, some_pose, votes
from pose_kd_ros.core.pnp import solve_pnp
from pose_kd_ros.core.pose import make_pose, rotation_angle
from pose_kd_ros.core.predictions import Correspondences
from pose_kd_ros.core.refine import refine_pose


def turned(pose, quarter_turns):
    return pose @ make_pose(Rotation.from_rotvec([0, 0, quarter_turns * np.pi / 2]).as_matrix(), np.zeros(3))


def modes(random, pose, cells):
    """Two thirds of the cells vote for the pose, each of the others for a random quarter turn of it."""
    astray = random.random(cells) > 2 / 3
    return [turned(pose, int(random.integers(1, 4)) if a else 0) for a in astray]


def pixels(random, pose, count):
    """Return ``count`` pixels of a dense map that see different points: noise of a pixel, 30 % outliers."""
    points = random.uniform(-0.05, 0.05, (count, 3))
    seen = (points @ pose[:3, :3].T + pose[:3, 3]) @ K.T
    image = seen[:, :2] / seen[:, 2:] + random.normal(0, 1.0, (count, 2))
    astray = random.random(count) < 0.3
    image[astray] += random.uniform(-60, 60, (astray.sum(), 2))
    return Correspondences(1, image, points, np.ones(count), 1.0)


SCENES = {
    "8 votes, 30 % outliers": lambda r, p: votes(r, [p], shared=0.5, outliers=0.3),
    "64 votes, 30 % outliers": lambda r, p: votes(r, [p] * 8, shared=0.5, outliers=0.3),
    "200 votes, 30 % outliers": lambda r, p: votes(r, [p] * 25, shared=0.5, outliers=0.3),
    "64 votes, 4 modes, 30 % outliers": lambda r, p: votes(r, modes(r, p, 8), shared=0.5, outliers=0.3),
    "200 votes, 4 modes, 30 % outliers": lambda r, p: votes(r, modes(r, p, 25), shared=0.5, outliers=0.3),
    "2,000 pixels, 30 % outliers": lambda r, p: pixels(r, p, 2000),
    "5,000 pixels, 30 % outliers": lambda r, p: pixels(r, p, 5000),
}


def opencv(method, **options):
    def solve(c):
        cv2.setRNGSeed(0)
        found, vector, translation, _ = cv2.solvePnPRansac(
            c.object, c.image, K, None, reprojectionError=5.0, flags=method, **options
        )
        if not found:
            return None
        pose = make_pose(cv2.Rodrigues(vector)[0], translation[:, 0])
        return pose if np.isfinite(pose).all() and pose[2, 3] > 0 else None

    return solve


def ours(hypotheses, cells=True):
    def solve(c):
        given = c if cells else Correspondences(1, c.image, c.object, c.weight, c.score)
        result = solve_pnp(given, K, hypotheses=hypotheses)
        return None if result is None else result.pose

    return solve


SOLVERS = {
    "OpenCV AP3P RANSAC": opencv(cv2.SOLVEPNP_AP3P, iterationsCount=100),
    "OpenCV EPNP RANSAC": opencv(cv2.SOLVEPNP_EPNP, iterationsCount=100),
    "OpenCV USAC MAGSAC": opencv(cv2.USAC_MAGSAC),
    "ours, 64 triples": ours(64),
    "ours, 64 triples, cells unknown": ours(64, cells=False),
    "ours, 200 triples": ours(200),
}


def trial(solve, make, seed):
    random = np.random.default_rng(seed)
    pose = some_pose(random)
    c = make(random, pose)
    start = time.perf_counter()
    found = solve(c)
    elapsed = time.perf_counter() - start
    refined = None if found is None else refine_pose(found, c, K)
    if refined is None:
        return elapsed, np.inf, np.inf
    shift = np.linalg.norm(refined.pose[:3, 3] - pose[:3, 3])
    return elapsed, shift, np.degrees(rotation_angle(refined.pose[:3, :3], pose[:3, :3]))


def main(trials: int = 100) -> None:
    for scene, make in SCENES.items():
        print(f"{scene}\n  {'':32s}     ms  ratio  right      mm    deg")
        base = None
        for name, solve in SOLVERS.items():
            results = np.array([trial(solve, make, seed) for seed in range(trials)])
            right = (results[:, 1] < 0.02) & (results[:, 2] < 5)
            ms = np.median(results[:, 0]) * 1e3
            base = base or ms
            shift, angle = np.median(results[right, 1:], axis=0) if right.any() else (np.nan, np.nan)
            figures = f"{ms:6.2f} {ms / base:6.2f}  {right.mean():5.2f}  {shift * 1e3:6.2f} {angle:6.2f}"
            print(f"  {name:32s} {figures}")
    random, pose = np.random.default_rng(0), some_pose(np.random.default_rng(1))
    some = {"200 votes": votes(random, [pose] * 25, outliers=0.3)}
    some |= {f"{n} pixels": pixels(random, pose, n) for n in (2000, 5000)}
    for name, c in some.items():
        first, times = solve_pnp(c, K), []
        assert first is not None  # these scenes are easy
        for _ in range(50):
            begin = time.perf_counter()
            refine_pose(first.pose, c, K)
            times.append(time.perf_counter() - begin)
        print(f"refinement of {name}: {np.median(times) * 1e3:.2f} ms")


if __name__ == "__main__":
    main(*(int(a) for a in sys.argv[1:]))
