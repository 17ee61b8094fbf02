# SPDX-License-Identifier: Apache-2.0
"""Feature pyramid and the shared head of the keypoint family."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from .base import start_output

# Initial probability of every cell, so that the many empty cells do not dominate the first steps.
FOCAL_PRIOR = 0.01
LOG_SCALE = (-7.0, 1.0)  # logarithm of a vote's error in diameters of the object: from 0.1 % of one to 2.7
FIRST_SCALE = 0.1  # diameters, before training


class Pyramid(nn.Module):
    """Top-down feature pyramid without normalisation. It has ``levels`` levels, from the backbone's finest
    on; those beyond the backbone's coarsest are made from that by stride-2 convolutions."""

    def __init__(self, inputs: tuple[int, ...], width: int, levels: int):
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(i, width, 1) for i in inputs)
        self.output = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in inputs[:levels])
        extra = ([inputs[-1]] + [width] * levels)[: max(0, levels - len(inputs))]
        self.extra = nn.ModuleList(nn.Conv2d(i, width, 3, 2, 1) for i in extra)

    def forward(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        merged = [lateral(f) for lateral, f in zip(self.lateral, features)]
        for fine in range(len(merged) - 2, -1, -1):
            merged[fine] = merged[fine] + F.interpolate(merged[fine + 1], scale_factor=2.0, mode="nearest")
        levels = [output(m) for output, m in zip(self.output, merged)]
        coarse = features[-1]
        for index, conv in enumerate(self.extra):
            coarse = conv(F.relu(coarse) if index else coarse)
            levels.append(coarse)
        return levels


def tower(width: int, depth: int, groups: int) -> nn.Sequential:
    """``depth`` x (3x3 convolution, GroupNorm, ReLU). GroupNorm, since the levels that share the tower have
    different batch statistics."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(groups, width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class KeypointHead(nn.Module):
    """Predict class logits, and offsets of keypoints from a cell's centre in units of its anchor, with two
    towers that all levels share. With ``scale`` predict also the uncertainty of the offsets."""

    def __init__(
        self,
        width: int,
        depth: int,
        groups: int,
        classes: int,
        keypoints: int,
        anchors: tuple[float, ...],
        scale: bool = False,
    ):
        super().__init__()
        self.shape = (classes, keypoints, 2)
        self.anchors = anchors
        self.score_tower = tower(width, depth, groups)
        self.vote_tower = tower(width, depth, groups)
        self.score = nn.Conv2d(width, classes, 3, padding=1)
        self.vote = nn.Conv2d(width, classes * keypoints * 2, 3, padding=1)
        self.level_scale = nn.Parameter(torch.ones(len(anchors)))
        start_output(self.score, 0.01, -math.log((1 - FOCAL_PRIOR) / FOCAL_PRIOR))
        start_output(self.vote, 0.01)
        self.scale = nn.Conv2d(width, classes, 3, padding=1) if scale else None
        if self.scale is not None:
            start_output(self.scale, 0.01, math.log(FIRST_SCALE))

    def forward(self, levels: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Return logits (B, N, C) and offsets (B, N, C, K, 2), pixels, the cells in ``core.cells.cell_grid``
        order; with ``scale`` also the logarithm (B, N, C) of the votes' Laplace scale in diameters."""
        logits, offsets, log_scales = [], [], []
        for level, (features, anchor) in enumerate(zip(levels, self.anchors)):
            logits.append(by_cell(self.score(self.score_tower(features))))
            seen = self.vote_tower(features)
            votes = self.vote(seen) * (self.level_scale[level] * anchor)
            offsets.append(by_cell(votes).unflatten(2, self.shape))
            if self.scale is not None:
                log_scales.append(by_cell(self.scale(seen)).clamp(*LOG_SCALE))
        return tuple(torch.cat(parts, 1) for parts in (logits, offsets, log_scales) if parts)


def by_cell(maps: torch.Tensor) -> torch.Tensor:
    """Maps (B, channels, h, w) -> (B, h * w, channels)."""
    return maps.flatten(2).transpose(1, 2)
