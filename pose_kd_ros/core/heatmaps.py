# SPDX-License-Identifier: Apache-2.0
"""Keypoint heatmaps: where a map peaks between its pixels, how high, and how far that may be off.

Convention: pixel (i, j) of a map of stride s stands for the crop's pixel u = (j + 0.5) s - 0.5,
v = (i + 0.5) s - 0.5. At stride 4 a unit-peak Gaussian of 2 map pixels about u = 10.3, v = 7 of the map
decodes to (42.7, 29.5) of the crop with score 1, less what falls between pixels, and covariance 8^2 I.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LEAST_SIGMA, MOST_SIGMA = 0.5, 8.0  # map pixels: limits of a peak's standard deviation
REACH = 1.0  # map pixels from the largest value: a parabola that peaks farther away does not describe it
FAINT = 1e-3  # of the peak: smaller values are noise, whose logarithms would dominate the fit

_V, _U = (step.ravel() for step in np.mgrid[-1:2, -1:2])
_TERMS = np.stack([np.ones(9), _U, _V, _U**2 / 2, _U * _V, _V**2 / 2], -1)
# From a window's values (9,) to the slopes and curvatures (5,) of the nearest parabola.
_FIT = np.linalg.pinv(_TERMS)[1:]


@dataclass(frozen=True)
class Peaks:
    """Decoded maps. points: (K, 2) pixels, NaN where a map shows no keypoint. scores: (K,) in [0, 1], the
    height of the peak. covariance: (K, 2, 2) pixels^2, positive definite."""

    points: np.ndarray
    scores: np.ndarray
    covariance: np.ndarray

    def __post_init__(self) -> None:
        k = len(self.points)
        for name, shape in (("points", (k, 2)), ("scores", (k,)), ("covariance", (k, 2, 2))):
            if getattr(self, name).shape != shape:
                raise ValueError(f"Peaks.{name}: wanted {shape}, found {getattr(self, name).shape}")


def decode_peaks(maps: np.ndarray, stride: float = 1.0) -> Peaks:
    """Return the peaks of maps (K, h, w), h and w at least 3, in the pixels that they are ``stride`` apart.

    The parabola is fitted to the logarithm of the 3 x 3 values about the largest one, which is exact for a
    Gaussian, at a border too; its curvature is the inverse covariance. A plateau's covariance is the largest.
    Values that are not finite count as 0; a map with nothing above 0 shows no keypoint.
    """
    maps = np.asarray(maps)
    if maps.ndim != 3 or min(maps.shape[1:]) < 3:
        raise ValueError(f"heatmaps: wanted (K, h, w) with h and w at least 3, found {maps.shape}")
    maps = np.nan_to_num(maps, nan=0.0, posinf=0.0, neginf=0.0)
    count, height, width = maps.shape
    each = np.arange(count)
    row, column = np.unravel_index(maps.reshape(count, -1).argmax(1), (height, width))
    i, j = np.clip(row, 1, height - 2), np.clip(column, 1, width - 2)
    window = maps[each[:, None], i[:, None] + _V, j[:, None] + _U].astype(float)
    peak = maps[each, row, column].astype(float)
    seen = peak > 0
    step, covariance = _parabola(np.log(np.clip(window / np.where(seen, peak, 1.0)[:, None], FAINT, 1.0)))
    top = np.stack([column, row], -1)
    points = np.clip(np.stack([j, i], -1) + step, top - REACH, top + REACH)
    points = np.where(seen[:, None], (points + 0.5) * stride - 0.5, np.nan)
    return Peaks(points, np.clip(peak, 0.0, 1.0), covariance * stride**2)


def _parabola(logs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Peaks (K, 2) from the windows' centres, and covariances (K, 2, 2), of the parabolas through the
    logarithms (K, 9) of windows."""
    slope_u, slope_v, uu, uv, vv = _FIT @ logs.T
    curvature, axes = np.linalg.eigh(-np.stack([uu, uv, uv, vv], -1).reshape(-1, 2, 2))
    variance = 1 / np.clip(curvature, MOST_SIGMA**-2, LEAST_SIGMA**-2)
    covariance = np.einsum("kij,kj,klj->kil", axes, variance, axes)
    return np.einsum("kij,kj->ki", covariance, np.stack([slope_u, slope_v], -1)), covariance
