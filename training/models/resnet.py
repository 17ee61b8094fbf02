# SPDX-License-Identifier: Apache-2.0
"""ResNet-34 with dilated last stages (output stride 8), for dense prediction. Source: He et al., CVPR 2016;
dilation: Chen et al., DeepLab."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from .base import Encoder


def conv_bn_relu(inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Convolution that keeps the size (over the stride), batch norm, ReLU."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, added to the input. A 1x1 convolution adapts it where widths or sizes differ."""

    def __init__(self, inputs: int, outputs: int, stride: int, dilation: int):
        super().__init__()
        self.first = conv_bn_relu(inputs, outputs, 3, stride, dilation)
        self.second = conv_bn_relu(outputs, outputs, 3, 1, dilation)[:2]
        fits = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if fits else conv_bn_relu(inputs, outputs, 1, stride)[:2]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.second(self.first(x)) + self.shortcut(x), inplace=True)


class ResNet34(Encoder):
    """Features 64@/2, 64@/4, 512@/8: the last two stages are dilated by 2 and 4 instead of strided."""

    widths = (64, 64, 512)
    strides = (2, 4, 8)

    def __init__(self):
        super().__init__()
        self.stem = conv_bn_relu(3, 64, 7, 2)
        # width, blocks, stride, dilation
        plan = ((64, 3, 1, 1), (128, 4, 2, 1), (256, 6, 1, 2), (512, 3, 1, 4))
        stages, inputs = [], 64
        for width, blocks, stride, dilation in plan:
            rest = [BasicBlock(width, width, 1, dilation) for _ in range(blocks - 1)]
            stages.append(nn.Sequential(BasicBlock(inputs, width, stride, dilation), *rest))
            inputs = width
        self.stages = nn.ModuleList(stages)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        half = self.stem(x)
        quarter = self.stages[0](F.max_pool2d(half, 3, 2, 1))
        x = quarter
        for stage in self.stages[1:]:
            x = stage(x)
        return [half, quarter, x]
