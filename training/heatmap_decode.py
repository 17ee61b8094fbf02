"""Peaks of heatmaps between pixels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Peaks(NamedTuple):
    """points (K, 2) pixels, NaN of a map without a peak; scores (K,)."""

    points: np.ndarray
    scores: np.ndarray


def decode_peaks(maps: np.ndarray, stride: float = 1.0) -> Peaks:
    """The peaks of maps (K, h, w), in the pixels that they are ``stride`` apart.

    The vertex of a parabola through the logarithm of the largest value and its neighbours, which is exact for
    a Gaussian.
    """
    points, scores = np.full((len(maps), 2), np.nan), maps.max((1, 2)).clip(0, 1)
    for k in np.flatnonzero(scores):
        logs = np.log(np.maximum(np.pad(maps[k].astype(float), 1, "edge"), 1e-9))
        row, column = np.unravel_index(maps[k].argmax(), maps[k].shape)
        around = logs[row : row + 3, column : column + 3]
        points[k] = column + _vertex(around[1]), row + _vertex(around[:, 1])
    return Peaks((points + 0.5) * stride - 0.5, scores)


def _vertex(values: np.ndarray) -> float:
    low, top, high = values
    bend = low - 2 * top + high
    return 0.0 if bend >= 0 else float(np.clip((low - high) / (2 * bend), -0.5, 0.5))
