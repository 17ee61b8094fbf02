"""Peaks of heatmaps between pixels."""

from __future__ import annotations

import numpy as np


def decode_heatmaps(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Maps (K, h, w) -> points (K, 2) map pixels, NaN without a peak, scores (K,), covariance (K, 2, 2).

    The vertex of a parabola through the logarithm of a peak and its neighbours, exact for a Gaussian.
    """
    points, scores = np.full((len(maps), 2), np.nan), np.zeros(len(maps))
    for k, each in enumerate(maps):
        row, column = np.unravel_index(each.argmax(), each.shape)
        if each[row, column] > 0:
            logs = np.log(np.maximum(np.pad(each.astype(float), 1, "edge"), 1e-9))
            around = logs[row : row + 3, column : column + 3]
            points[k] = column + _vertex(around[1]), row + _vertex(around[:, 1])
            scores[k] = each[row, column]
    return points, scores, np.tile(np.eye(2), (len(maps), 1, 1))


def _vertex(values: np.ndarray) -> float:
    low, top, high = values
    bend = low - 2 * top + high
    return 0.0 if bend >= 0 else float(np.clip((low - high) / (2 * bend), -0.5, 0.5))
