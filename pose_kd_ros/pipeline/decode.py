# SPDX-License-Identifier: Apache-2.0
"""Network outputs to local predictions, and local predictions to groups: one group per object instance."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..core.cells import cell_grid
from ..core.predictions import LocalPredictions

MAX_CELLS = 256  # per class; more votes cost time and add nothing, a tracked object has about 100
BANDWIDTH = 0.25  # of the voted box: cells whose voted centres are closer belong to one instance


def decode_cells(
    outputs: dict[str, np.ndarray], strides: Sequence[int], height: int, width: int, threshold: float
) -> LocalPredictions:
    """Return the votes, in input pixels, of all cells whose class score exceeds
    ``threshold``, best MAX_CELLS a class."""
    centers, anchors = cell_grid(height, width, strides)
    scores, offsets = outputs["scores"][0], outputs["offsets"][0]
    if len(scores) != len(centers):
        raise ValueError(
            f"network: wanted {len(centers)} cells for {width}x{height} px and strides {strides}, "
            f"found {len(scores)}"
        )
    kept = []
    for index in range(scores.shape[1]):
        above = np.flatnonzero(scores[:, index] > threshold)
        best = above[np.argsort(-scores[above, index], kind="stable")[:MAX_CELLS]]
        kept.append((best, np.full(len(best), index)))
    cell, object_index = (np.concatenate(parts) for parts in zip(*kept))
    points = offsets[cell, object_index].astype(float) + centers[cell, None]
    finite = np.isfinite(points).all((1, 2))
    error = None
    if "scales" in outputs:
        error = outputs["scales"][0][cell, object_index].astype(float)
        finite &= error > 0  # which NaN is not
    votes = LocalPredictions(
        points, scores[cell, object_index].astype(float), object_index, centers[cell], anchors[cell], error
    )
    return votes if finite.all() else votes.select(finite)


def voted_boxes(points: np.ndarray) -> np.ndarray:
    """Return the boxes (N, 4), x0 y0 x1 y1, about votes (N, K, 2)."""
    return np.concatenate([points.min(1), points.max(1)], 1)


def group_cells(votes: LocalPredictions, smallest: int = 1) -> list[np.ndarray]:
    """Return index arrays, one per instance, best score first: cells of a class that vote for one box centre.

    Mean shift from the best cell left, bandwidth a quarter of the voted box; groups
    under ``smallest`` are dropped.
    """
    boxes = voted_boxes(votes.points)
    centers, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).max(1)
    left, groups = np.ones(len(votes), bool), []
    for seed in np.argsort(-votes.scores, kind="stable"):
        if not left[seed]:
            continue
        same = np.flatnonzero(left & (votes.object_index == votes.object_index[seed]))
        near = _mean_shift(
            centers[same], votes.scores[same], centers[seed], BANDWIDTH * max(sizes[seed], 1.0)
        )
        member = np.zeros(len(votes), bool)
        member[same[near]] = member[seed] = True
        left &= ~member
        if np.count_nonzero(member) >= smallest:
            groups.append(np.flatnonzero(member))
    return groups


def _mean_shift(points: np.ndarray, weights: np.ndarray, center: np.ndarray, bandwidth: float) -> np.ndarray:
    for _ in range(10):
        away = points - center
        near = np.einsum("ij,ij->i", away, away) < bandwidth**2
        total = weights @ near
        if total == 0:
            break
        moved = (weights * near) @ points / total
        if math.dist(moved, center) < 0.01 * bandwidth:
            break
        center = moved
    return near
