# SPDX-License-Identifier: Apache-2.0
"""DarkNet encoders, trained from scratch, with features of stride 8, 16 (and 32)."""

from __future__ import annotations

import torch
from torch import nn

from .base import Encoder


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm, leaky ReLU: DarkNet's unit."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(0.1, inplace=True),
    )


class Residual(nn.Module):
    """1x1 convolution to half the width, 3x3 back; added to the input."""

    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(conv_bn(width, width // 2, 1), conv_bn(width // 2, width, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


class DarkNet53(Encoder):
    """Source: YOLOv3; 52 convolutions in stages of 1, 2, 8, 8, 4 residual blocks. Features
    256@/8, 512@/16, 1024@/32."""

    widths = (256, 512, 1024)
    strides = (8, 16, 32)

    def __init__(self):
        super().__init__()
        stages, width = [conv_bn(3, 32, 3)], 32
        for blocks in (1, 2, 8, 8, 4):
            stages.append(
                nn.Sequential(conv_bn(width, 2 * width, 3, 2), *(Residual(2 * width) for _ in range(blocks)))
            )
            width *= 2
        self.stages = nn.ModuleList(stages)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features[3:]


class DarkNetTiny(Encoder):
    """Source: Tiny DarkNet; 1x1/3x3 alternations between max-poolings. Features 128@/8 (pooled), 128@/16.

    ``divisor`` 2 halves every width (DarkNet-tiny-H).
    """

    strides = (8, 16)

    def __init__(self, divisor: int = 1):
        super().__init__()

        def squeeze_expand(inputs: int, narrow: int, wide: int) -> list[nn.Module]:
            return [
                conv_bn(inputs, narrow, 1),
                conv_bn(narrow, wide, 3),
                conv_bn(wide, narrow, 1),
                conv_bn(narrow, wide, 3),
            ]

        w16, w32, w64, w128, w256, w512 = (w // divisor for w in (16, 32, 64, 128, 256, 512))
        pool = nn.MaxPool2d(2)
        self.to_stride8 = nn.Sequential(
            conv_bn(3, w16, 3), pool, conv_bn(w16, w32, 3), pool, *squeeze_expand(w32, w16, w128), pool
        )
        self.to_stride16 = nn.Sequential(
            *squeeze_expand(w128, w32, w256), pool, *squeeze_expand(w256, w64, w512), conv_bn(w512, w128, 1)
        )
        self.widths = (w128, w128)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        eighth = self.to_stride8(x)
        return [eighth, self.to_stride16(eighth)]
