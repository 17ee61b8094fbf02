# SPDX-License-Identifier: Apache-2.0
"""Networks of the dense family: for every other pixel, whether it sees an object, and which point of it.

Source: Su et al., ZebraPose, CVPR 2022; the slim decoder of the students and the top-down decoder of the lite
encoders are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from pose_kd_ros.core.surface import BITS

from .backbones import conv_bn
from .base import Encoder, Network
from .checks import check_least
from .encoders import ENCODERS, EncoderName, make_encoder
from .resnet import conv_bn_relu
from .surface import TopDown

STRIDE = 2  # of the output: 128 x 128 for a crop of 256


@dataclass(frozen=True)
class DenseConfig:
    """Shape of a dense network. width: channels of the decoder at the backbone's coarsest features."""

    backbone: EncoderName = "darknet-tiny-h"
    width: int = 64
    classes: int = 1
    frozen: int = 2
    """Stages of a lite encoder, after its stem, whose weights and statistics do not change."""

    pretrained: bool = True
    """Start a lite encoder from ImageNet weights."""

    family: Literal["dense"] = "dense"

    def __post_init__(self):
        check_least(self, width=1, classes=1, frozen=0)

    @property
    def strides(self) -> tuple[int, ...]:
        return (STRIDE,)

    @property
    def input_stride(self) -> int:
        """Number of pixels that a crop's side must be a multiple of."""
        return ENCODERS[self.backbone].strides[-1]

    @property
    def plain(self) -> DenseConfig:
        """What is deployed: the whole network, since it has no branches."""
        return self


def dense_resnet34(**options) -> DenseConfig:
    """The papers' teacher: 29 M parameters, 109 GFLOP at 256x256."""
    return DenseConfig("resnet34", **{"width": 256, **options})


def dense_tiny(**options) -> DenseConfig:
    """DarkNet-tiny with the slim decoder."""
    return DenseConfig("darknet-tiny", **{"width": 96, **options})


def dense_tiny_h(**options) -> DenseConfig:
    """DarkNet-tiny-H with the slim decoder."""
    return DenseConfig("darknet-tiny-h", **{"width": 64, **options})


class Aspp(nn.Module):
    """Atrous spatial pyramid pooling: the surroundings of a pixel at several distances. Source: DeepLabv3."""

    def __init__(self, inputs: int, width: int, rates: tuple[int, ...] = (6, 12, 18)):
        super().__init__()
        near = [conv_bn_relu(inputs, width, 1)]
        self.branches = nn.ModuleList(near + [conv_bn_relu(inputs, width, 3, 1, rate) for rate in rates])
        self.whole = conv_bn_relu(inputs, width, 1)
        self.merge = conv_bn_relu((len(rates) + 2) * width, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        whole = self.whole(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])
        return self.merge(torch.cat([branch(x) for branch in self.branches] + [whole], 1))


class Upsampling(nn.Module):
    """Double the size by a transposed convolution, then apply two 3x3 convolutions (ZebraPose)."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.up = nn.ConvTranspose2d(inputs, width, 3, 2, 1, output_padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.after = nn.Sequential(conv_bn_relu(width, width, 3), conv_bn_relu(width, width, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(F.relu(self.norm(self.up(x)), inplace=True))


class ResNetDecoder(nn.Module):
    """The teacher's decoder: ASPP and two upsamplings with skip connections."""

    def __init__(self, inputs: tuple[int, ...], width: int):
        super().__init__()
        half, quarter, eighth = inputs
        self.aspp = Aspp(eighth, width)
        self.to_quarter = Upsampling(width, width)
        self.to_half = Upsampling(width + quarter, width)
        self.outputs = width + half

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        half, quarter, eighth = features
        x = torch.cat([self.to_quarter(self.aspp(eighth)), quarter], 1)
        return torch.cat([self.to_half(x), half], 1)


class SlimDecoder(nn.Module):
    """The students' decoder: fewer channels at larger sizes, to save time; one skip connection, at stride
    8."""

    def __init__(self, inputs: tuple[int, ...], width: int):
        super().__init__()
        eighth, sixteenth = inputs
        self.around = conv_bn(sixteenth, width, 3)
        self.at_eighth = nn.Sequential(conv_bn(eighth + width, width, 3), conv_bn(width, width, 3))
        self.at_quarter = conv_bn(width, width // 2, 3)
        self.at_half = conv_bn(width // 2, width // 2, 3)
        self.outputs = width // 2

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        eighth, sixteenth = features
        x = self.at_eighth(torch.cat([eighth, twice(self.around(sixteenth))], 1))
        return self.at_half(twice(self.at_quarter(twice(x))))


def make_decoder(encoder: Encoder, width: int) -> ResNetDecoder | SlimDecoder | TopDown:
    """Build the decoder that fits the strides of an encoder's features."""
    if encoder.strides == (2, 4, 8):
        return ResNetDecoder(encoder.widths, width)
    if encoder.strides == (8, 16):
        return SlimDecoder(encoder.widths, width)
    return TopDown(encoder.widths, encoder.strides, width, STRIDE)


def twice(x: torch.Tensor) -> torch.Tensor:
    """Return features at twice the size, bilinear."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


class DenseNetwork(Network):
    """Predict the mask and the surface code of every other pixel."""

    bit_error: torch.Tensor
    """(BITS,): running error rate of each bit, which weighs its loss; stored with the weights, as batch
    statistics are."""

    def __init__(self, config: DenseConfig):
        super().__init__()
        self.config = config
        self.backbone = encoder = make_encoder(config.backbone, config.frozen)
        self.decoder = make_decoder(encoder, config.width)
        self.last = nn.Conv2d(self.decoder.outputs, config.classes + BITS, 1)
        self.register_buffer("bit_error", torch.full((BITS,), 0.5))

    def forward(self, images: torch.Tensor, with_features: bool = False):
        """images (B, 3, H, W), normalised -> logits of the mask (B, C, H/2, W/2) and of the codes (B, BITS,
        H/2, W/2). with_features: also an empty list, since no features of a dense network are distilled."""
        mask, codes = self.last(self.decoder(self.backbone(images))).split([self.config.classes, BITS], 1)
        return (mask, codes, []) if with_features else (mask, codes)
