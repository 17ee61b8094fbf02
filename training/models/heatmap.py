# SPDX-License-Identifier: Apache-2.0
"""The heatmap family: a map for each keypoint, by one branch or by several that learn from their ensemble.

Branch 0 is the one that is deployed; the others and the unit that weighs them exist in training alone.
Source: OKDHP (Li et al., ICCV 2021).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

import torch
from torch import nn

from .aggregation import Aggregation, make_unit, weighted
from .checks import check_least, check_named
from .encoders import ENCODERS, PYRAMIDS, make_encoder
from .hourglass import HALVINGS, STRIDE, HourglassBackbone, HourglassBranch, score
from .light import Decoder
from .resnet import conv_bn_relu
from .surface import TopDown

Backbone = Literal[("hourglass", *PYRAMIDS)]


@dataclass(frozen=True)
class HeatmapConfig:
    """A heatmap network's shape: T = len(depths) branches on what they share."""

    backbone: Backbone = "mobilenetv2"
    shared: int = 1
    """Hourglass stacks before the branches; light backbones are shared whole."""
    depths: tuple[int, ...] = (1,)
    """Of each branch: its hourglass stacks, or the convolution blocks of every doubling in its decoder."""
    widths: tuple[int, ...] = (256,)
    """Of each branch: channels of its stacks or of its decoder. What hourglasses share has the first's."""
    aggregation: Aggregation = "none"
    """What weighs the branches: nothing (peers), equal weights, ONE's gate, OKDHP's unit or our slim one."""
    classes: int = 1
    keypoints: int = 9
    skips: bool = False
    """Decoders add a light encoder's features of every stride on the way up, instead of making the maps of
    its coarsest alone; of ``depths`` all but 1 are then convolutions at the end."""
    frozen: int = 2
    """Stages of a lite encoder, after its stem, that keep their first weights and statistics."""
    pretrained: bool = True
    """Start a lite encoder from ImageNet weights."""
    family: Literal["heatmap"] = "heatmap"

    def __post_init__(self):
        check_named(self, "backbone", get_args(Backbone))
        check_named(self, "aggregation", get_args(Aggregation))
        check_least(self, shared=0, classes=1, keypoints=1, frozen=0)
        if self.skips and self.backbone == "hourglass":
            raise ValueError("HeatmapConfig.skips: wanted a light encoder with them, found hourglass")
        if len(self.depths) != len(self.widths) or not self.depths:
            raise ValueError(
                "HeatmapConfig.widths: wanted as many as depths, at least one, "
                f"found {len(self.widths)} for {len(self.depths)}"
            )
        if min(self.depths) < 1:
            raise ValueError(f"HeatmapConfig.depths: wanted >= 1 each, found {self.depths}")
        if min(self.widths) < 2 or any(width % 2 for width in self.widths):
            raise ValueError(f"HeatmapConfig.widths: wanted even numbers > 0, found {self.widths}")

    @property
    def strides(self) -> tuple[int, ...]:
        return (STRIDE,)

    @property
    def input_stride(self) -> int:
        """What a crop's sides must be multiples of."""
        if self.backbone == "hourglass":
            return STRIDE * 2**HALVINGS
        return ENCODERS[self.backbone].strides[-1]

    @property
    def plain(self) -> HeatmapConfig:
        """The deployed branch alone."""
        return replace(self, depths=self.depths[:1], widths=self.widths[:1], aggregation="none")


def hourglass(stacks: int, **options) -> HeatmapConfig:
    """Plain stacks, half of them (rounded down) where OKDHP shares them: 2, 4 or 8 in the paper."""
    shared = stacks // 2
    return HeatmapConfig("hourglass", **{"shared": shared, "depths": (stacks - shared,), **options})


def okdhp_hourglass(stacks: int, unbalanced: bool = False, **options) -> HeatmapConfig:
    """The paper's training networks: three branches, each completing ``stacks`` (2 -> 1+1, 4 -> 2+2, 8 ->
    4+4); unbalanced: the deployed one does, the others are two and three times as deep (4 -> 2 + 2/4/6)."""
    depth = stacks - stacks // 2
    depths = (depth, 2 * depth, 3 * depth) if unbalanced else (depth,) * 3
    return hourglass(stacks, **{"depths": depths, "widths": (256,) * 3, "aggregation": "fau", **options})


def light(
    backbone: Backbone,
    branches: int = 1,
    unbalanced: Literal["depth", "width"] | None = None,
    width: int = 256,
    **options,
) -> HeatmapConfig:
    """A light encoder under ``branches`` decoders; unbalanced: each is deeper by a block, or wider by half of
    ``width``, than the one before."""
    index = range(branches)
    depths = tuple(1 + (i if unbalanced == "depth" else 0) for i in index)
    widths = tuple(width + (i * width // 2 if unbalanced == "width" else 0) for i in index)
    shape = {"depths": depths, "widths": widths, "aggregation": "fau-slim" if branches > 1 else "none"}
    return HeatmapConfig(backbone, **{**shape, **options})


class Maps(NamedTuple):
    """Outputs of a heatmap network in training; h, w = H/4, W/4."""

    final: torch.Tensor
    """(T, B, C, K, h, w): each branch's last maps."""
    intermediate: list[torch.Tensor]
    """(B, C, K, h, w) each: the other maps that are supervised, the shared stacks' first."""
    ensemble: torch.Tensor | None
    """(B, C, K, h, w): the final maps by their weights."""
    weights: torch.Tensor | None
    """(B, T, C, K)"""


class SkipDecoder(nn.Module):
    """From an encoder's features of all ``strides`` to maps at stride 4, top down; then ``depth`` - 1 3x3
    convolutions, and the maps."""

    def __init__(self, inputs: tuple[int, ...], strides: tuple[int, ...], width: int, depth: int, maps: int):
        super().__init__()
        self.top_down = TopDown(inputs, strides, width, STRIDE)
        self.layers = nn.Sequential(*(conv_bn_relu(width, width, 3) for _ in range(depth - 1)))
        self.score = score(width, maps)

    def forward(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        """Features (B, inputs, H / stride, W / stride) -> the final maps alone, (B, maps, H / 4, W / 4)."""
        return [self.score(self.layers(self.top_down(features)))]


class HeatmapNetwork(nn.Module):
    """Maps of K keypoints of each of C classes: raw values, trained towards Gaussians with a peak of 1.

    The aggregation unit looks at what all branches have in common: the stem's features at stride 4 of an
    hourglass, the coarsest ones of a light encoder.
    """

    def __init__(self, config: HeatmapConfig):
        super().__init__()
        self.config = config
        maps, shapes = config.classes * config.keypoints, zip(config.widths, config.depths)
        if config.backbone == "hourglass":
            inputs, pool = config.widths[0], 4
            self.backbone = HourglassBackbone(inputs, config.shared, maps)
            made = [HourglassBranch(inputs, width, depth, maps) for width, depth in shapes]
        else:
            self.backbone = make_encoder(config.backbone, config.frozen)
            seen, strides = self.backbone.widths, self.backbone.strides
            inputs, pool = seen[-1], 1
            make, given = (SkipDecoder, (seen, strides)) if config.skips else (Decoder, (inputs, strides[-1]))
            made = [make(*given, width, depth, maps) for width, depth in shapes]
        self.branches = nn.ModuleList(made)
        shape = len(config.depths), config.classes, config.keypoints
        self.unit = make_unit(config.aggregation, inputs, *shape, pool=pool)

    def forward(self, images: torch.Tensor, with_features: bool = False) -> torch.Tensor | Maps:
        """images (B, 3, H, W), normalised -> the deployed branch's final maps (B, C, K, H/4, W/4);
        with_features: all there is, as ``Maps``.

        Raises ValueError unless ``input_stride`` divides H and W.
        """
        common, features, shared = self._shared(images)
        if not with_features:
            return self._shaped(self.branches[0](features)[-1])
        found = [[self._shaped(maps) for maps in branch(features)] for branch in self.branches]
        final = torch.stack([maps[-1] for maps in found])
        intermediate = [self._shaped(maps) for maps in shared] + [m for maps in found for m in maps[:-1]]
        if self.unit is None:
            return Maps(final, intermediate, None, None)
        weights = self.unit(common)
        return Maps(final, intermediate, weighted(weights, final), weights)

    def _shared(
        self, images: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | list[torch.Tensor], list[torch.Tensor]]:
        """Return the unit's input, the branches' input, and the maps on the way there."""
        (height, width), stride = images.shape[2:], self.config.input_stride
        if height % stride or width % stride:
            raise ValueError(
                f"{self.config.backbone}: wanted sides that {stride} divides, found {width}x{height}"
            )
        if self.config.backbone == "hourglass":
            return self.backbone(images)
        features = self.backbone(images)
        return features[-1], features if self.config.skips else features[-1], []

    def _shaped(self, maps: torch.Tensor) -> torch.Tensor:
        return maps.unflatten(1, (self.config.classes, self.config.keypoints))
