# SPDX-License-Identifier: Apache-2.0
"""What weighs the branches of a network into the ensemble that teaches them, by sample and keypoint.

Every unit looks at features (B, inputs, h, w) that all branches share and returns weights (B, T, C, K), >= 0,
which sum to 1 over the T branches. Source: OKDHP (Li et al., ICCV 2021); ONE (Lan et al., NeurIPS 2018).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from .resnet import conv_bn_relu

Aggregation = Literal["none", "mean", "one", "fau", "fau-slim"]

KERNELS = (3, 5, 7)
HIDDEN = 64  # features that every branch's weights are read off


class Mean(nn.Module):
    """Equal weights, nothing to learn."""

    def __init__(self, branches: int, classes: int, keypoints: int):
        super().__init__()
        self.shape = (branches, classes, keypoints)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.full((len(x), *self.shape), 1 / self.shape[0], device=x.device)


class OneGate(nn.Module):
    """One weight a branch, for all keypoints alike: ONE's, less its batch norm, so that one sample does."""

    def __init__(self, inputs: int, branches: int, classes: int, keypoints: int):
        super().__init__()
        self.shape = (classes, keypoints)
        self.gate = nn.Linear(inputs, branches)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = self.gate(x.mean((2, 3))).float().softmax(1)
        return weights[:, :, None, None].expand(-1, -1, *self.shape)


class FeatureAggregation(nn.Module):
    """The paper's Feature Aggregation Unit: 3x3, 5x5 and 7x7 convolutions and an average pooling see the
    features, their sum is averaged to one vector, off which each branch's head reads its keypoints' weights.

    ``width`` is that of the paths; a 1x1 at the entrance fits other inputs to it. As published, 256 on the
    hourglass's 256 channels, it costs 22.3 GMAC (20.8 * 2**30) at 64x64, more than a network of four stacks.

    ``slim`` is ours: the entrance reduces to 64 channels, which are pooled by ``pool`` and seen by
    depth-wise paths; 0.07 GMAC. A convolution averaged over a map is, up to the border, its summed kernel on
    the average: what the paths see beyond that comes of their ReLUs alone. The slim unit keeps these, and
    one at full size.
    """

    def __init__(
        self, inputs: int, width: int, branches: int, classes: int, keypoints: int, slim: bool, pool: int
    ):
        super().__init__()
        self.shape = (classes, keypoints)
        self.entrance = nn.Identity() if inputs == width else conv_bn_relu(inputs, width, 1)
        self.pool = pool
        self.paths = nn.ModuleList(_path(width, kernel, width if slim else 1) for kernel in KERNELS)
        self.hidden = nn.Linear(width, HIDDEN)
        self.heads = nn.ModuleList(nn.Linear(HIDDEN, classes * keypoints) for _ in range(branches))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.avg_pool2d(self.entrance(x), self.pool)
        merged = F.avg_pool2d(x, 3, 1, 1) + sum(path(x) for path in self.paths)
        hidden = self.hidden(merged.mean((2, 3)))
        weights = torch.stack([head(hidden) for head in self.heads], 1).float().softmax(1)
        return weights.unflatten(2, self.shape)


def _path(width: int, kernel: int, groups: int) -> nn.Sequential:
    conv = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True))


def make_unit(
    kind: Aggregation, inputs: int, branches: int, classes: int, keypoints: int, pool: int = 1
) -> nn.Module | None:
    """Build the unit of that kind for features of ``inputs`` channels; None for "none".

    pool: the factor by which the slim unit first reduces the size of the features.
    """
    shape = branches, classes, keypoints
    if kind == "none":
        return None
    if kind == "mean":
        return Mean(*shape)
    if kind == "one":
        return OneGate(inputs, *shape)
    if kind == "fau":
        return FeatureAggregation(inputs, 256, *shape, slim=False, pool=1)
    return FeatureAggregation(inputs, HIDDEN, *shape, slim=True, pool=pool)


def weighted(weights: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    """weights (B, T, ...), outputs (T, B, ..., *map) -> their weighted sum over the branches, (B, ..., *map).

    Element-wise, in the wider of both precisions: a product of matrices would be cast down under autocast.
    """
    missing = outputs.ndim - weights.ndim
    return (weights.transpose(0, 1)[(...,) + (None,) * missing] * outputs).sum(0)
