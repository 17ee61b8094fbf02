# SPDX-License-Identifier: Apache-2.0
"""How far an estimated pose is from the true one, and what share of poses is right.

Poses are ``T_camera_object`` (..., 4, 4), whose leading shapes broadcast: ``mssd(found[:, None], true[None],
...)`` compares all pairs. Points are in the object frame. Metres, radians, pixels.
Convention: "right" means strictly below the threshold, as in BOP: an ADD of exactly 0.1 d is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from .camera import project_pinhole
from .pose import inverse, rotation_angle, to_rotation_vector, transform

MSSD_THRESHOLDS = np.arange(1, 11) / 20  # of the diameter (BOP19)
MSPD_THRESHOLDS = np.arange(1, 11) * 5.0  # pixels of an image 640 wide (BOP19)
_CHUNK = 4_000_000  # numbers held at once
_NONE = np.eye(4)[None]  # no symmetry but the identity
Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]  # of poses (n, 4, 4), estimated and true


def add(estimated: np.ndarray, true: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Average distance (...) of points (V, 3) at the two poses. Source: Hinterstoisser et al., ACCV 2012."""
    return _over_pairs(
        estimated,
        true,
        len(points),
        lambda e, t: np.linalg.norm(transform(e, points) - transform(t, points), axis=-1).mean(-1),
    )


def add_s(estimated: np.ndarray, true: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Average distance (...) from each point at the true pose to the nearest point at the estimated pose.

    Also called ADI. It cannot see which way a symmetric object is turned, nor some wrong turns of any other.
    """
    from scipy.spatial import cKDTree  # half a second: only where there is truth

    tree = cKDTree(points)  # in the estimated object's frame, where the estimated points do not move
    return _over_pairs(
        estimated, true, len(points), lambda e, t: tree.query(transform(inverse(e) @ t, points))[0].mean(-1)
    )


def mssd(estimated: np.ndarray, true: np.ndarray, points: np.ndarray, symmetries: np.ndarray) -> np.ndarray:
    """Maximum surface distance (...) of points (V, 3), under the best of the symmetries (S, 4, 4).

    Source: BOP challenge 2020, with ``symmetries`` from object_model.expand_symmetries.
    """

    def distance(e: np.ndarray, t: np.ndarray) -> np.ndarray:
        gap = (e[:, None] - t[:, None] @ symmetries)[..., :3, :]
        return np.sqrt(((gap[..., :3] @ np.transpose(points) + gap[..., 3:]) ** 2).sum(-2).max(-1).min(-1))

    return _over_pairs(estimated, true, len(symmetries) * len(points), distance)


def mspd(
    estimated: np.ndarray, true: np.ndarray, points: np.ndarray, symmetries: np.ndarray, K: np.ndarray
) -> np.ndarray:
    """Maximum projection distance (...), pixels of the pinhole K (3, 3); else as ``mssd``."""

    def distance(e: np.ndarray, t: np.ndarray) -> np.ndarray:
        seen = project_pinhole(K, transform(e, points))[:, None]
        wanted = project_pinhole(K, transform(t[:, None] @ symmetries, points))
        worst = np.linalg.norm(seen - wanted, axis=-1).max(-1)
        return np.where(np.isnan(worst), np.inf, worst).min(-1)

    return _over_pairs(estimated, true, len(symmetries) * len(points), distance)


def pose_error(
    estimated: np.ndarray, true: np.ndarray, symmetries: np.ndarray = _NONE
) -> tuple[np.ndarray, np.ndarray]:
    """Translation (m) and rotation (rad) errors (...) to the symmetric equivalent turned away least."""
    estimated = np.asarray(estimated, float)[..., None, :, :]
    true = np.asarray(true, float)[..., None, :, :] @ symmetries
    turns = rotation_angle(estimated[..., :3, :3], true[..., :3, :3])
    best = np.argmin(turns, -1)[..., None]
    shifts = np.linalg.norm(estimated[..., :3, 3] - true[..., :3, 3], axis=-1)
    return np.take_along_axis(shifts, best, -1)[..., 0], np.take_along_axis(turns, best, -1)[..., 0]


def error_vector(estimated: np.ndarray, true: np.ndarray, symmetries: np.ndarray = _NONE) -> np.ndarray:
    """The small change (6,) of ``core.refine`` that moves an estimate (4, 4) to the true pose (4, 4), to its
    symmetric equivalent that is turned away least."""
    candidates = np.asarray(true, float) @ symmetries
    true = candidates[int(np.argmin(rotation_angle(candidates[:, :3, :3], estimated[:3, :3])))]
    turn = to_rotation_vector(true[:3, :3] @ estimated[:3, :3].T)
    return np.concatenate([true[:3, 3] - estimated[:3, 3], turn])


def squared_mahalanobis(
    estimated: np.ndarray, covariance: np.ndarray, true: np.ndarray, symmetries: np.ndarray = _NONE
) -> float:
    """How far an error lies in standard deviations of the covariance (6, 6), squared: chi-squared with 6
    degrees of freedom if covariances are what they say."""
    gap = error_vector(estimated, true, symmetries)
    return float(gap @ np.linalg.solve(covariance, gap))


def mahalanobis_radius(share: float) -> float:
    """The squared Mahalanobis distance that this share of six-dimensional errors stays below: chi-squared's
    quantile. Convention: 10.64 for 0.9."""
    from scipy.special import gammaincinv  # half a second: only where there is truth

    return float(2 * gammaincinv(3, share))


def recall(errors: ArrayLike, threshold: float) -> float:
    """Share of errors (N,) below the threshold; give infinity for an object that was not found."""
    errors = np.asarray(errors, float)
    return float((errors < threshold).mean()) if len(errors) else float("nan")


def auc_posecnn(distances: ArrayLike, limit: float = 0.1) -> float:
    """Area in [0, 1] under the accuracy-threshold curve of distances (N,) up to ``limit`` (0.1 m).

    The VOC-style one of the PoseCNN toolbox: distances beyond ``limit`` count as not found, and between two
    distances the curve has the farther one's accuracy. Means over even thresholds give other figures.
    """
    distances = np.sort(np.asarray(distances, float))
    if not len(distances):
        return float("nan")
    reached = distances[distances <= limit]
    if not len(reached):
        return 0.0
    accuracy = np.arange(1, len(reached) + 1) / len(distances)
    edges = np.concatenate([[0.0], reached, [limit]])
    return float((np.diff(edges) * np.append(accuracy, accuracy[-1])).sum() / limit)


@dataclass(frozen=True)
class Counts:
    """How many estimates there were, how many true instances, and how many pairs of them matched."""

    matched: int
    estimates: int
    truths: int

    @property
    def recall(self) -> float:
        """matched / truths, NaN without any."""
        return self.matched / self.truths if self.truths else float("nan")

    @property
    def precision(self) -> float:
        """matched / estimates, NaN without any."""
        return self.matched / self.estimates if self.estimates else float("nan")


def match(errors: ArrayLike, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Match estimates to instances greedily, best score first; returns each one's instance (E,) or -1.

    errors: (E, G) of each estimate to each true instance of the same object and image. scores: (E,).
    Each takes the free instance of least error below the threshold. Source: bop_toolkit.
    """
    errors = np.array(errors, float)
    if errors.ndim != 2 or len(errors) != len(scores):
        raise ValueError(f"match: wanted errors ({len(scores)}, G) for the scores, found {errors.shape}")
    matches = np.full(len(scores), -1)
    for estimate in np.argsort(-np.asarray(scores, float), kind="stable"):
        if errors.shape[1] and errors[estimate].min() < threshold:
            matches[estimate] = int(errors[estimate].argmin())
            errors[:, matches[estimate]] = np.inf
    return matches


def count(groups: Iterable[tuple[ArrayLike, ArrayLike]], threshold: float, top_only: bool = False) -> Counts:
    """Match the estimates of many (image, object) groups.

    groups: iterable of (errors (E, G), scores (E,)), (0, G) where nothing was found. top_only: keep the G
    best scores of each group, as BOP's localisation task does, which knows how many there are; else all.
    """
    matched = estimates = truths = 0
    for errors, scores in groups:
        errors, scores = np.asarray(errors, float), np.asarray(scores, float)
        kept = np.argsort(-scores, kind="stable")[: errors.shape[1] if top_only else None]
        matched += int((match(errors[kept], scores[kept], threshold) >= 0).sum())
        estimates, truths = estimates + len(kept), truths + errors.shape[1]
    return Counts(matched, estimates, truths)


def average_recall(groups: Sequence[tuple[ArrayLike, ArrayLike]], thresholds: Iterable[float]) -> float:
    """BOP19's average recall: the mean of ``count``'s recall, top scores only, over the thresholds.

    groups: a list as in ``count``. Errors in the thresholds' unit: MSSD divided by the diameter against
    MSSD_THRESHOLDS, MSPD times 640 / image width against MSPD_THRESHOLDS.
    """
    return float(np.mean([count(groups, threshold, top_only=True).recall for threshold in thresholds]))


def _over_pairs(estimated: ArrayLike, true: ArrayLike, size: int, distance: Distance) -> np.ndarray:
    """Apply ``distance`` to the broadcast poses (n, 4, 4), so many at a time that memory stays bounded."""
    estimated, true = np.broadcast_arrays(np.asarray(estimated, float), np.asarray(true, float))
    shape = estimated.shape[:-2]
    estimated, true = estimated.reshape(-1, 4, 4), true.reshape(-1, 4, 4)
    step = max(1, _CHUNK // (3 * max(1, size)))
    parts = [distance(estimated[i : i + step], true[i : i + step]) for i in range(0, len(true), step)]
    return np.concatenate([np.zeros(0), *parts]).reshape(shape)
