# SPDX-License-Identifier: Apache-2.0
"""What encoders have in common, what networks have in common, and how their layers start."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn

AnyModule = TypeVar("AnyModule", bound=nn.Module)


class Encoder(nn.Module):
    """Images (B, 3, H, W) -> feature maps (B, width, H / stride, W / stride), the finest first."""

    widths: tuple[int, ...]
    """Channels of each feature map."""
    strides: tuple[int, ...]
    """Stride of each feature map, pixels of the image."""


class Network(nn.Module):
    """A network of one of the families: images (B, 3, H, W), normalised -> its family's outputs."""

    config: Any
    """The configuration of its family, which it was built from."""
    backbone: nn.Module
    """The part whose features all outputs share."""


def channels_last(module: AnyModule) -> AnyModule:
    """Move a module's weights to channels-last layout, which is faster on CPU and GPU."""
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch declares no such option


def start_output(conv: nn.Conv2d, std: float, bias: float = 0.0) -> None:
    """Draw an output layer's weights with the deviation ``std``, and set its bias."""
    assert conv.bias is not None
    nn.init.normal_(conv.weight, std=std)
    nn.init.constant_(conv.bias, bias)
