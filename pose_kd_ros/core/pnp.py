# SPDX-License-Identifier: Apache-2.0
"""Pose from votes with outliers: hypotheses from three votes each, scored against all votes.

Measured in bench/pnp.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .p3p import solve_p3p
from .pose import cross
from .predictions import Correspondences, distinct, finite_rows

FARTHEST = 200.0  # extents of the object: beyond it a pose cannot be distinguished from its neighbours
SCORED = 128  # votes that hypotheses are scored against; more cost time and change nothing


@dataclass(frozen=True)
class PnPResult:
    """pose: ``T_camera_object`` (4, 4). inliers: (M,) bool, votes within the threshold.

    support: the inliers' share of the usable votes' weight, in [0, 1].
    """

    pose: np.ndarray
    inliers: np.ndarray
    support: float


def solve_pnp(
    correspondences: Correspondences,
    K: np.ndarray,
    threshold_px: float = 5.0,
    hypotheses: int = 64,
    seed: int = 0,
) -> PnPResult | None:
    """Return the pose that the largest weight of votes agrees on, or None if there is none.

    K: (3, 3). threshold_px: pixels of the full image; votes made on a crop that shows the object s times as
    large have 1/s of the noise, so give threshold / s. hypotheses: triples tried. The same input gives the
    same result. Votes that are not finite or weigh nothing are left out. A pose has inliers at 4 or more
    points of the object, all ahead of the camera, within FARTHEST object extents. It is a start: refine it.
    Errors of votes with covariances are whitened (``Correspondences.whitening``).
    """
    image, points, K = (np.asarray(a, float) for a in (correspondences.image, correspondences.object, K))
    usable = finite_rows(image, points, correspondences.weight) & (correspondences.weight > 0)
    if usable.sum() < 4:
        return None
    whitening = correspondences.whitening(usable)
    whitening = None if whitening is None else whitening[usable]
    image, points = image[usable], points[usable]
    weight, cell = correspondences.weight[usable].astype(float), correspondences.cell[usable]
    random = np.random.default_rng(seed)
    triples = _draw(points, weight, cell, hypotheses, random)
    poses = _plausible(solve_p3p(_unit_rays(image, K)[triples], points[triples]), points)
    votes = random.permutation(len(image))[:SCORED]
    if not len(poses):
        return None
    points, place = distinct(points)  # many votes are for few points
    few, at = np.unique(place[votes], return_inverse=True)
    scored = None if whitening is None else whitening[votes]
    scores = vote_scores(poses, image[votes], points[few], at, weight[votes], K, threshold_px, scored)
    pose = poses[int(np.argmax(scores))]
    close = squared_errors(pose[None], image, points, place, K, whitening)[:, 0] < threshold_px**2
    if np.count_nonzero(np.bincount(place[close])) < 4:
        return None
    inliers = np.zeros(len(usable), bool)
    inliers[usable] = close
    return PnPResult(pose, inliers, float(weight[close].sum() / weight.sum()))


def squared_errors(
    poses: np.ndarray,
    image: np.ndarray,
    points: np.ndarray,
    place: np.ndarray,
    K: np.ndarray,
    whitening: np.ndarray | None = None,
) -> np.ndarray:
    """Squared reprojection errors (M, H) in pixels of poses (H, 4, 4); infinite behind the camera.

    image: (M, 2). points: (P, 3). place: (M,), which point each vote is for. whitening: (M, 2, 2), see
    ``Correspondences.whitening``; None leaves the errors as they are.
    """
    columns = np.tensordot(poses[:, :3], K, (1, 1))  # of K T, (H, 4, 3): two large products, not H small ones
    x, y, z = np.moveaxis(np.tensordot(np.c_[points, np.ones(len(points))], columns, (1, 1)), -1, 0)
    with np.errstate(all="ignore"):
        u, v = (x / z)[place], (y / z)[place]
        u -= image[:, :1]  # in place: new arrays of this size cost more than what is done to them
        v -= image[:, 1:]
        if whitening is not None:
            u, v = (row[:, :1] * u + row[:, 1:] * v for row in (whitening[:, 0], whitening[:, 1]))
        u *= u
        v *= v
        u += v
    u[(z <= 0)[place]] = np.inf
    return u


def vote_scores(
    poses: np.ndarray,
    image: np.ndarray,
    points: np.ndarray,
    place: np.ndarray,
    weight: np.ndarray,
    K: np.ndarray,
    threshold_px: float,
    whitening: np.ndarray | None = None,
) -> np.ndarray:
    """Scores (H,): a vote counts its weight at no error, less with its square, nothing past the threshold."""
    errors = squared_errors(poses, image, points, place, K, whitening)
    errors /= -(threshold_px**2)
    errors += 1
    return weight @ np.maximum(errors, 0, out=errors)


def _unit_rays(image: np.ndarray, K: np.ndarray) -> np.ndarray:
    rays = np.c_[(image - K[:2, 2]) / K[[0, 1], [0, 1]], np.ones(len(image))]
    return rays / np.linalg.norm(rays, axis=1, keepdims=True)


def _draw(
    points: np.ndarray, weight: np.ndarray, cell: np.ndarray, count: int, random: np.random.Generator
) -> np.ndarray:
    """Triples (H, 3) of rows, likelier where the weight is: half of any rows, half within one cell.

    The votes of one cell agree on which of a symmetric object's representatives they mean; those of several
    cells may not. Triples within cells of fewer than three rows span no triangle and fall away.
    """
    free = random.choice(len(weight), (2 * count, 3), p=weight / weight.sum())
    rows = np.argsort(cell, kind="stable")  # the rows, cell by cell
    names, start, size = np.unique(cell[rows], return_index=True, return_counts=True)
    home = np.searchsorted(names, cell[free[:, :1]])
    within = rows[start[home] + (random.random(free.shape) * size[home]).astype(int)]
    free, within = _spanning(points, free), _spanning(points, within)[: count // 2]
    return np.concatenate([within, free])[:count]


def _spanning(points: np.ndarray, triples: np.ndarray) -> np.ndarray:
    """Those triples whose three object points span a triangle."""
    a, b, c = (points[triples[:, i]] for i in range(3))
    area = np.linalg.norm(cross(b - a, c - a), axis=1)
    return triples[area > 1e-3 * np.ptp(points, axis=0).max() ** 2]


def _plausible(poses: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Those poses (H, 4, 4) whose centre of the points is in front of the camera and not absurdly far."""
    depth = poses[:, 2, :3] @ points.mean(0) + poses[:, 2, 3]
    return poses[(depth > 0) & (depth < FARTHEST * np.ptp(points, axis=0).max())]
