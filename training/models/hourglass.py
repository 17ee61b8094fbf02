# SPDX-License-Identifier: Apache-2.0
"""Stacked hourglass: heatmaps at stride 4, where each stack refines the features and maps of the one before.

Source: Newell et al., ECCV 2016, with one residual block at every position, as in OKDHP (Li et al., ICCV
2021). 2, 4 and 8 stacks of 256 channels have 6.73, 13.02 and 25.60 M parameters, and cost 8.99, 15.36 and
28.09 GMAC at 256x256.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from .base import start_output
from .resnet import conv_bn_relu

STRIDE = 4  # of the maps
HALVINGS = 4  # inside an hourglass, so that an image's sides must be multiples of 4 * 2**4
SCORE_STD = 0.001  # of the initial weights that predict maps: training starts from maps near 0


def score(width: int, maps: int) -> nn.Conv2d:
    """Return the 1x1 convolution from features to maps, which are close to 0 at first."""
    conv = nn.Conv2d(width, maps, 1)
    start_output(conv, SCORE_STD)
    return conv


class Bottleneck(nn.Module):
    """Pre-activation residual block: 1x1 to half of the outputs, 3x3, 1x1. A 1x1 convolution adapts the input
    where widths differ."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        half = outputs // 2
        self.body = nn.Sequential(
            *_activated(inputs, nn.Conv2d(inputs, half, 1)),
            *_activated(half, nn.Conv2d(half, half, 3, padding=1)),
            *_activated(half, nn.Conv2d(half, outputs, 1)),
        )
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.shortcut(x) + self.body(x)


def _activated(width: int, conv: nn.Conv2d) -> tuple[nn.Module, ...]:
    return nn.BatchNorm2d(width), nn.ReLU(inplace=True), conv


class Hourglass(nn.Module):
    """Halve the size ``halvings`` times, then double it as often, with a bottleneck as skip at every size."""

    def __init__(self, width: int, halvings: int = HALVINGS):
        super().__init__()
        self.across = Bottleneck(width, width)
        self.down = Bottleneck(width, width)
        self.inner = Hourglass(width, halvings - 1) if halvings > 1 else Bottleneck(width, width)
        self.up = Bottleneck(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        low = self.up(self.inner(self.down(F.max_pool2d(x, 2))))
        return self.across(x) + F.interpolate(low, scale_factor=2.0, mode="nearest")


class Stack(nn.Module):
    """An hourglass and the maps predicted from it. If a stack follows, its input gets both added."""

    def __init__(self, width: int, maps: int, followed: bool):
        super().__init__()
        self.body = nn.Sequential(Hourglass(width), Bottleneck(width, width), conv_bn_relu(width, width, 1))
        self.score = score(width, maps)
        self.remap = (
            nn.ModuleList([nn.Conv2d(width, width, 1), nn.Conv2d(maps, width, 1)]) if followed else None
        )

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x (B, width, h, w) -> maps (B, maps, h, w), and the next stack's input (of the last stack: its
        input)."""
        features = self.body(x)
        maps = self.score(features)
        if self.remap is None:
            return maps, x
        features_back, maps_back = self.remap
        return maps, x + features_back(features) + maps_back(maps)


class HourglassBackbone(nn.Module):
    """The stem, to stride 4, and the stacks before the branches."""

    def __init__(self, width: int, shared: int, maps: int):
        super().__init__()
        self.stem = nn.Sequential(
            conv_bn_relu(3, 64, 7, 2),
            Bottleneck(64, 128),
            nn.MaxPool2d(2),
            Bottleneck(128, width),
            Bottleneck(width, width),
        )
        self.stacks = nn.ModuleList(Stack(width, maps, followed=True) for _ in range(shared))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """images (B, 3, H, W) -> the stem's features and the branches' input, both (B, width, H/4, W/4), and
        each stack's maps (B, maps, H/4, W/4)."""
        stem = x = self.stem(images)
        found = []
        for stack in self.stacks:
            maps, x = stack(x)
            found.append(maps)
        return stem, x, found


class HourglassBranch(nn.Module):
    """``depth`` stacks of ``width`` channels; a 1x1 convolution at the entrance if ``inputs`` differs."""

    def __init__(self, inputs: int, width: int, depth: int, maps: int):
        super().__init__()
        self.entrance = nn.Identity() if inputs == width else nn.Conv2d(inputs, width, 1)
        self.stacks = nn.ModuleList(Stack(width, maps, followed=i + 1 < depth) for i in range(depth))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """x (B, inputs, h, w) -> each stack's maps (B, maps, h, w), the final ones last."""
        x = self.entrance(x)
        found = []
        for stack in self.stacks:
            maps, x = stack(x)
            found.append(maps)
        return found
