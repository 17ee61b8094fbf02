# SPDX-License-Identifier: Apache-2.0
"""Feature pyramid and the shared head of the keypoint family."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

# Initial probability of every cell, so that the many empty cells do not dominate the first steps.
FOCAL_PRIOR = 0.01
LOG_SCALE = (-7.0, 1.0)  # of a vote's error in diameters of the object: 0.1 % of one to 2.7
FIRST_SCALE = 0.1  # diameters, of a network that has learnt nothing


class Pyramid(nn.Module):
    """Top-down pyramid without normalisation, of ``levels`` levels from the backbone's finest on; those past
    its last come by stride-2 convolutions from it."""

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
    """``depth`` x (3x3 convolution, GroupNorm, ReLU). GroupNorm, since batch statistics of
    shared levels disagree."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(groups, width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class KeypointHead(nn.Module):
    """Two towers shared by all levels: class logits, and offsets from a cell's centre in units of its anchor;
    with ``scale`` how sure these are, too."""

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
        nn.init.normal_(self.score.weight, std=0.01)
        nn.init.normal_(self.vote.weight, std=0.01)
        nn.init.constant_(self.score.bias, -math.log((1 - FOCAL_PRIOR) / FOCAL_PRIOR))
        nn.init.zeros_(self.vote.bias)
        self.scale = nn.Conv2d(width, classes, 3, padding=1) if scale else None
        if scale:
            nn.init.normal_(self.scale.weight, std=0.01)
            nn.init.constant_(self.scale.bias, math.log(FIRST_SCALE))

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
