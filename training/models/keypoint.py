# SPDX-License-Identifier: Apache-2.0
"""The keypoint family's network: teacher and student are two configurations of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

import torch
from torch import nn

from pose_kd_ros.core.cells import ANCHOR_PER_STRIDE

from .aggregation import make_unit, weighted
from .base import Network
from .checks import check_least, check_named
from .encoders import ENCODERS, PyramidName, make_encoder
from .heads import KeypointHead, Pyramid

VoteAggregation = Literal["none", "mean", "one", "fau-slim"]
FINEST = 8  # stride of the pyramid's finest level


@dataclass(frozen=True)
class NetworkConfig:
    """Shape of a keypoint network.

    width: channels of the pyramid and the heads. depth: convolutions of a tower. branches: heads on one
    pyramid, of which the first is deployed. aggregation: how the branches are combined to an ensemble.
    """

    backbone: PyramidName = "darknet-tiny-h"
    width: int = 64
    depth: int = 3
    groups: int = 16
    levels: int = 4
    classes: int = 1
    keypoints: int = 8
    branches: int = 1
    aggregation: VoteAggregation = "none"
    scale: bool = False
    """Predict, for each cell and class, the Laplace scale of the votes, which weighs them in PnP."""

    frozen: int = 2
    """Stages of a lite encoder, after its stem, whose weights and statistics do not change."""

    pretrained: bool = True
    """Start a lite encoder from ImageNet weights."""

    family: Literal["keypoint"] = "keypoint"

    def __post_init__(self):
        check_least(self, branches=1, levels=1, frozen=0)
        check_named(self, "aggregation", get_args(VoteAggregation))
        if self.branches == 1 and self.aggregation != "none":
            raise ValueError(
                f"NetworkConfig.aggregation: wanted 'none' for 1 branch, found {self.aggregation!r}"
            )
        if self.branches > 1 and self.scale:
            raise ValueError(f"NetworkConfig.scale: wanted 1 branch with it, found {self.branches}")

    @property
    def input_stride(self) -> int:
        """Number of pixels that a crop's side must be a multiple of."""
        return max(self.strides[-1], ENCODERS[self.backbone].strides[-1])

    @property
    def strides(self) -> tuple[int, ...]:
        return tuple(FINEST * 2**level for level in range(self.levels))

    @property
    def plain(self) -> NetworkConfig:
        """The deployed branch alone."""
        return replace(self, branches=1, aggregation="none")


def darknet53(**options) -> NetworkConfig:
    """The papers' teacher: 50.5 M parameters, 33.4 GFLOP at 256x256 with one class."""
    return NetworkConfig("darknet53", **{"width": 256, "depth": 4, "groups": 32, "levels": 5, **options})


def darknet_tiny(**options) -> NetworkConfig:
    """The papers' student: 7.8 M parameters, 15.8 GFLOP."""
    return NetworkConfig("darknet-tiny", **{"width": 256, "depth": 4, "groups": 32, **options})


def darknet_tiny_h(**options) -> NetworkConfig:
    """The papers' smallest student: 1.97 M parameters, 4.0 GFLOP."""
    return NetworkConfig("darknet-tiny-h", **{"width": 128, "depth": 4, "groups": 32, **options})


def darknet_tiny_h_slim(**options) -> NetworkConfig:
    """Our network for small computers: the same backbone with a slim pyramid and head, about 1 GFLOP."""
    return NetworkConfig("darknet-tiny-h", **{"width": 64, "depth": 3, "groups": 16, **options})


class BranchVotes(NamedTuple):
    """Training outputs of a keypoint network with T > 1 branches; without aggregation the ensemble is
    None."""

    logits: torch.Tensor
    """(B, N, C), of the deployed branch."""

    offsets: torch.Tensor
    """(B, N, C, K, 2), of the deployed branch."""

    levels: list[torch.Tensor]
    """Features of the pyramid's levels, (B, width, H / stride, W / stride) each."""

    others: list[tuple[torch.Tensor, torch.Tensor]]
    """Logits and offsets of the T - 1 other branches."""

    ensemble_logits: torch.Tensor | None
    """(B, N, C): weighted by the mean of the weights over the keypoints."""

    ensemble_offsets: torch.Tensor | None
    """(B, N, C, K, 2): weighted by the weights of each keypoint."""

    weights: torch.Tensor | None
    """(B, T, C, K)"""


class KeypointNetwork(Network):
    """Every cell votes for the 2D projections of K keypoints of each of C classes.

    Source: WDRNet, Hu et al. 2021.
    """

    def __init__(self, config: NetworkConfig):
        super().__init__()
        self.config = config
        self.backbone = encoder = make_encoder(config.backbone, config.frozen)
        self.finer = sum(stride < FINEST for stride in encoder.strides)  # features that are not used
        self.pyramid = Pyramid(encoder.widths[self.finer :], config.width, config.levels)
        anchors = tuple(float(ANCHOR_PER_STRIDE * stride) for stride in config.strides)
        shape = config.classes, config.keypoints
        heads = [
            KeypointHead(config.width, config.depth, config.groups, *shape, anchors, config.scale)
            for _ in range(config.branches)
        ]
        self.head = heads[0]
        self.others = nn.ModuleList(heads[1:])
        self.unit = make_unit(config.aggregation, encoder.widths[-1], config.branches, *shape)

    def forward(self, images: torch.Tensor, with_features: bool = False):
        """images (B, 3, H, W), normalised -> the deployed branch's logits (B, N, C) and offsets (B, N, C, K,
        2), pixels from the cells' centres; with ``scale`` also the logarithm (B, N, C) of the offsets' scale
        in diameters. with_features: after the offsets the pyramid's levels, each (B, width, H / stride, W /
        stride); of several branches ``BranchVotes``."""
        features = self.backbone(images)[self.finer :]
        levels = self.pyramid(features)
        votes = self.head(levels)
        if not with_features:
            return votes
        if not self.others:
            return *votes[:2], levels, *votes[2:]
        others = [head(levels) for head in self.others]
        logits, offsets = votes
        mean_logits, mean_offsets, weights = self._ensemble(features[-1], [votes, *others])
        return BranchVotes(logits, offsets, levels, others, mean_logits, mean_offsets, weights)

    def _ensemble(self, common: torch.Tensor, votes: list[tuple[torch.Tensor, torch.Tensor]]):
        """Return the weighted logits and offsets of the branches, and the weights.

        common: the input of the aggregation unit, which is the backbone's coarsest features.
        """
        if self.unit is None:
            return None, None, None
        weights = self.unit(common)
        logits, offsets = (torch.stack(outputs) for outputs in zip(*votes))
        by_cell = weights[:, :, None]  # (B, T, 1, C, K), for every cell the same
        return weighted(by_cell.mean(-1), logits), weighted(by_cell, offsets), weights
