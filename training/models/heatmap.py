# SPDX-License-Identifier: Apache-2.0
"""Networks of the heatmap family: a heatmap for each keypoint, from one branch or from several that learn
from their ensemble.

Branch 0 is deployed; the other branches and the aggregation unit exist only in training. Source: OKDHP (Li et
al., ICCV 2021).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

import torch
from torch import nn

from .aggregation import Aggregation, make_unit, weighted
from .base import Encoder, Network
from .checks import check_least, check_named
from .encoders import ENCODERS, HeatmapBackbone, make_encoder
from .hourglass import HALVINGS, STRIDE, HourglassBackbone, HourglassBranch, score
from .light import Decoder
from .resnet import conv_bn_relu
from .surface import TopDown

Unbalanced = Literal["depth", "width"]


@dataclass(frozen=True)
class HeatmapConfig:
    """Shape of a heatmap network: T = len(depths) branches on a shared part."""

    backbone: HeatmapBackbone = "mobilenetv2"
    shared: int = 1
    """Hourglass stacks before the branches. A light backbone is shared as a whole."""
    depths: tuple[int, ...] = (1,)
    """For each branch: its hourglass stacks, or the convolution blocks of each upsampling in its decoder."""
    widths: tuple[int, ...] = (256,)
    """For each branch: channels of its stacks or of its decoder. Shared stacks have those of the first."""
    aggregation: Aggregation = "none"
    """How the branches are weighed: not at all (none), equally (mean), by ONE's gate (one), by OKDHP's unit
    (fau) or by our slim one (fau-slim)."""
    classes: int = 1
    keypoints: int = 9
    skips: bool = False
    """Let the decoders use a light encoder's features of every stride (skip connections), not only the
    coarsest. A branch of depth d then has d - 1 convolutions at the end."""
    frozen: int = 2
    """Stages of a lite encoder, after its stem, whose weights and statistics do not change."""
    pretrained: bool = True
    """Start a lite encoder from ImageNet weights."""
    family: Literal["heatmap"] = "heatmap"

    def __post_init__(self):
        check_named(self, "backbone", get_args(HeatmapBackbone))
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
        """Number of pixels that a crop's sides must be multiples of."""
        if self.backbone == "hourglass":
            return STRIDE * 2**HALVINGS
        return ENCODERS[self.backbone].strides[-1]

    @property
    def plain(self) -> HeatmapConfig:
        """The deployed branch alone."""
        return replace(self, depths=self.depths[:1], widths=self.widths[:1], aggregation="none")


def hourglass(stacks: int, **options) -> HeatmapConfig:
    """One branch of stacks, 2, 4 or 8 in the paper. Half of them, rounded down, count as shared, as in
    OKDHP."""
    shared = stacks // 2
    return HeatmapConfig("hourglass", **{"shared": shared, "depths": (stacks - shared,), **options})


def okdhp_hourglass(stacks: int, unbalanced: bool = False, **options) -> HeatmapConfig:
    """The paper's training networks: half of the ``stacks`` are shared, each of three branches has the other
    half (2 -> 1+1, 4 -> 2+2, 8 -> 4+4). unbalanced: the second and third branch are two and three times as
    deep as the deployed one (4 -> 2 + 2/4/6)."""
    depth = stacks - stacks // 2
    depths = (depth, 2 * depth, 3 * depth) if unbalanced else (depth,) * 3
    return hourglass(stacks, **{"depths": depths, "widths": (256,) * 3, "aggregation": "fau", **options})


def light(
    backbone: str,
    branches: int = 1,
    unbalanced: Unbalanced | None = None,
    width: int = 256,
    **options,
) -> HeatmapConfig:
    """A light encoder with ``branches`` decoders. unbalanced: each decoder is deeper by a block, or wider by
    half of ``width``, than the one before."""
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
    """(B, C, K, h, w) each: the other maps that are supervised, those of the shared stacks first."""
    ensemble: torch.Tensor | None
    """(B, C, K, h, w): the weighted sum of the final maps; None without aggregation."""
    weights: torch.Tensor | None
    """(B, T, C, K)"""


class SkipDecoder(nn.Module):
    """Decode an encoder's features of all ``strides``, top down to stride 4; apply ``depth`` - 1 3x3
    convolutions, and predict the maps."""

    def __init__(self, inputs: tuple[int, ...], strides: tuple[int, ...], width: int, depth: int, maps: int):
        super().__init__()
        self.top_down = TopDown(inputs, strides, width, STRIDE)
        self.layers = nn.Sequential(*(conv_bn_relu(width, width, 3) for _ in range(depth - 1)))
        self.score = score(width, maps)

    def forward(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        """Features (B, inputs, H / stride, W / stride) -> the final maps alone, (B, maps, H / 4, W / 4)."""
        return [self.score(self.layers(self.top_down(features)))]


def make_decoder(encoder: Encoder, width: int, depth: int, maps: int, skips: bool) -> nn.Module:
    """Build a branch on a light encoder; skips: as ``HeatmapConfig.skips``."""
    if skips:
        return SkipDecoder(encoder.widths, encoder.strides, width, depth, maps)
    return Decoder(encoder.widths[-1], encoder.strides[-1], width, depth, maps)


class HeatmapNetwork(Network):
    """Predict heatmaps of K keypoints for each of C classes: raw values, trained towards Gaussians with a
    peak of 1.

    The input of the aggregation unit is shared by all branches: an hourglass stem's features at stride 4, or
    a light encoder's coarsest features.
    """

    backbone: Encoder | HourglassBackbone

    def __init__(self, config: HeatmapConfig):
        super().__init__()
        self.config = config
        maps, shapes = config.classes * config.keypoints, zip(config.widths, config.depths)
        if config.backbone == "hourglass":
            inputs, pool = config.widths[0], 4
            self.backbone = HourglassBackbone(inputs, config.shared, maps)
            self.branches = nn.ModuleList(HourglassBranch(inputs, *shape, maps) for shape in shapes)
        else:
            self.backbone = encoder = make_encoder(config.backbone, config.frozen)
            inputs, pool = encoder.widths[-1], 1
            self.branches = nn.ModuleList(
                make_decoder(encoder, *shape, maps, config.skips) for shape in shapes
            )
        shape = len(config.depths), config.classes, config.keypoints
        self.unit = make_unit(config.aggregation, inputs, *shape, pool=pool)

    def forward(self, images: torch.Tensor, with_features: bool = False) -> torch.Tensor | Maps:
        """images (B, 3, H, W), normalised -> the deployed branch's final maps (B, C, K, H/4, W/4).
        with_features: the outputs of all branches, as ``Maps``.

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
        """Return the aggregation unit's input, the branches' input, and the maps of the shared stacks."""
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
