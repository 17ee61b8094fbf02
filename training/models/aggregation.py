# SPDX-License-Identifier: Apache-2.0
"""Aggregation units: they weigh the branches of a network into the ensemble that teaches them.

Every unit takes features (B, inputs, h, w), which all branches share, and returns a weight for each sample,
branch, class and keypoint: (B, T, C, K), >= 0, with a sum of 1 over the T branches. Source: OKDHP (Li et al.,
ICCV 2021); ONE (Lan et al., NeurIPS 2018).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from .resnet import conv_bn_relu

Aggregation = Literal["none", "mean", "one", "fau", "fau-slim"]

KERNELS = (3, 5, 7)
HIDDEN = 64  # features from which every branch's weights are computed


class Mean(nn.Module):
    """Equal weights, nothing to learn."""

    def __init__(self, branches: int, classes: int, keypoints: int):
        super().__init__()
        self.shape = (branches, classes, keypoints)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.full((len(x), *self.shape), 1 / self.shape[0], device=x.device)


class OneGate(nn.Module):
    """One weight for each branch, the same for all keypoints. As in ONE, but without its batch norm, so that
    a batch of one sample works."""

    def __init__(self, inputs: int, branches: int, classes: int, keypoints: int):
        super().__init__()
        self.shape = (classes, keypoints)
        self.gate = nn.Linear(inputs, branches)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = self.gate(x.mean((2, 3))).float().softmax(1)
        return weights[:, :, None, None].expand(-1, -1, *self.shape)


class FeatureAggregation(nn.Module):
    """The paper's Feature Aggregation Unit: 3x3, 5x5 and 7x7 convolutions and an average pooling process the
    features. Their sum is averaged over the map; from that vector a head for each branch computes the weights
    of its keypoints.

    ``width``: channels of the paths; a 1x1 convolution at the entrance adapts other inputs. As published,
    with 256 on the hourglass's 256 channels, the unit costs 22.3 GMAC (20.8 * 2**30) at 64x64, more than a
    network of four stacks.

    ``slim``: our form, 0.07 GMAC. The entrance reduces the features to 64 channels, an average pooling by
    ``pool`` reduces their size, and the paths are depth-wise. Averaged over a map, a convolution alone equals
    its summed kernel times the map's average (but for the border), so that only the ReLUs of the paths add
    information. The slim unit keeps these, and one at full size, that of the entrance.
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
    """Build the unit of a kind for features of ``inputs`` channels; None for "none".

    pool: factor by which the slim unit first reduces the size of the features.
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
    """Return the sum (B, ..., *map) of outputs (T, B, ..., *map) over the branches, by weights (B, T, ...).

    Multiply element by element, in the wider of the two precisions: autocast would round a matrix product.
    """
    missing = outputs.ndim - weights.ndim
    return (weights.transpose(0, 1)[(...,) + (None,) * missing] * outputs).sum(0)
