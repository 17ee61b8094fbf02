# SPDX-License-Identifier: Apache-2.0
"""The cells of a feature pyramid: where they are, and how large the objects are that each level is for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

ANCHOR_PER_STRIDE = 4  # WDRNet: anchors of 32..512 px at strides 8..128


def cell_grid(height: int, width: int, strides: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the cells of an input of ``height`` x ``width`` pixels, level by level, row by row.

    Returns centres (N, 2), pixels (u, v), and anchors (N,), pixels. Raises ValueError unless every stride
    divides both sides. Convention: pixel centres at integers, so the first cell of stride 8 is centred at
    (3.5, 3.5).
    """
    return _cell_grid(height, width, tuple(strides))


@lru_cache(maxsize=16)
def _cell_grid(height: int, width: int, strides: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    centers, anchors = [], []
    for stride in strides:
        if height % stride or width % stride:
            raise ValueError(
                f"input of {width}x{height} px is not divisible by the network's stride {stride}"
            )
        v, u = np.meshgrid(np.arange(height // stride), np.arange(width // stride), indexing="ij")
        centers.append((np.stack([u.ravel(), v.ravel()], -1) + 0.5) * stride - 0.5)
        anchors.append(np.full(u.size, float(stride * ANCHOR_PER_STRIDE)))
    grid = np.concatenate(centers), np.concatenate(anchors)
    for array in grid:
        array.setflags(write=False)  # shared by all who ask
    return grid


def cells_per_level(box_size: float, anchors: ArrayLike, total: int = 10) -> np.ndarray:
    """Return how many cells of each level an object of ``box_size`` pixels is assigned (L,).

    Source: ADLP/WDRNet, n_l = round(total exp(-d_l^2) / sum exp(-d_l^2)) with d_l = log2(box_size /
    anchor_l).
    Worked: a box of 171 px takes [0, 1, 5, 4, 0] of anchors 32, 64, 128, 256, 512.
    """
    weight = np.exp(-(np.log2(box_size / np.asarray(anchors, float)) ** 2))
    return np.round(total * weight / weight.sum()).astype(int)
