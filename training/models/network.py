"""Teacher and student of the keypoint family: two configurations of one network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from pose_kd_ros.core.cells import ANCHOR_PER_STRIDE

from .backbones import DarkNet53, DarkNetTiny
from .dense import DenseConfig, DenseNetwork
from .heads import KeypointHead, Pyramid


@dataclass(frozen=True)
class NetworkConfig:
    """A keypoint network's shape. ``width`` is that of the pyramid and the head, ``depth`` a tower's
    convolutions."""

    backbone: Literal["darknet53", "darknet-tiny", "darknet-tiny-h"] = "darknet-tiny-h"
    width: int = 64
    depth: int = 3
    groups: int = 16
    levels: int = 4
    classes: int = 1
    keypoints: int = 8
    family: Literal["keypoint"] = "keypoint"

    @property
    def input_stride(self) -> int:
        """What a crop's side must be a multiple of."""
        return self.strides[-1]

    @property
    def strides(self) -> tuple[int, ...]:
        return tuple(8 * 2**level for level in range(self.levels))


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
    """Ours for small computers: the same backbone with a slim pyramid and head, about 1 GFLOP."""
    return NetworkConfig("darknet-tiny-h", **{"width": 64, "depth": 3, "groups": 16, **options})


def make_backbone(name: str) -> nn.Module:
    if name == "darknet53":
        return DarkNet53()
    return DarkNetTiny(divisor={"darknet-tiny": 1, "darknet-tiny-h": 2}[name])


def make_network(config: NetworkConfig | DenseConfig) -> nn.Module:
    """The network of a configuration, with new weights: the one place that knows which class that is."""
    return DenseNetwork(config) if config.family == "dense" else KeypointNetwork(config)


class KeypointNetwork(nn.Module):
    """Every cell votes for the 2D projections of K keypoints of each of C classes (WDRNet, Hu et al.
    2021)."""

    def __init__(self, config: NetworkConfig):
        super().__init__()
        self.config = config
        self.backbone = make_backbone(config.backbone)
        self.pyramid = Pyramid(self.backbone.widths, config.width, config.levels)
        anchors = tuple(float(ANCHOR_PER_STRIDE * stride) for stride in config.strides)
        self.head = KeypointHead(
            config.width, config.depth, config.groups, config.classes, config.keypoints, anchors
        )

    def forward(self, images: torch.Tensor, with_features: bool = False):
        """images (B, 3, H, W), normalised -> logits (B, N, C), offsets (B, N, C, K, 2) in pixels from cell
        centres; with_features: and the pyramid's levels, each (B, width, H / stride, W / stride)."""
        levels = self.pyramid(self.backbone(images))
        votes = self.head(levels)
        return (*votes, levels) if with_features else votes
