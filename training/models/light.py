# SPDX-License-Identifier: Apache-2.0
"""Encoders for small computers, and the decoder from their coarsest features to maps at stride 4.

The encoders return features of stride 8, 16 and 32, as the DarkNets do. Their layers have torchvision's
names; the classifiers are left out. Decoder: Xiao et al., Simple Baselines, ECCV 2018.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from .base import Encoder
from .hourglass import STRIDE, score
from .resnet import conv_bn_relu


class BasicBlock(nn.Module):
    """ResNet's two 3x3 convolutions; a 1x1 adapts the input where width or size differ."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        fits = stride == 1 and inputs == outputs
        self.downsample = nn.Identity() if fits else conv_norm(inputs, outputs, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        body = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(body)) + self.downsample(x), inplace=True)


class ResNet18(Encoder):
    """Source: He et al., CVPR 2016; 11.18 M parameters.

    Features 128@/8, 256@/16, 512@/32.
    """

    widths = (128, 256, 512)
    strides = (8, 16, 32)

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(BasicBlock(64, 64, 1), BasicBlock(64, 64, 1))
        self.layer2 = nn.Sequential(BasicBlock(64, 128, 2), BasicBlock(128, 128, 1))
        self.layer3 = nn.Sequential(BasicBlock(128, 256, 2), BasicBlock(256, 256, 1))
        self.layer4 = nn.Sequential(BasicBlock(256, 512, 2), BasicBlock(512, 512, 1))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        half = F.relu(self.bn1(self.conv1(x)), inplace=True)
        eighth = self.layer2(self.layer1(F.max_pool2d(half, 3, 2, 1)))
        sixteenth = self.layer3(eighth)
        return [eighth, sixteenth, self.layer4(sixteenth)]


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution that keeps the size (over the stride), batch norm."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    )


def conv_norm_relu6(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    return nn.Sequential(*conv_norm(inputs, outputs, kernel, stride, groups), nn.ReLU6(inplace=True))


class InvertedResidual(nn.Module):
    """MobileNetV2's block: ``expansion`` times the width by 1x1, 3x3 depth-wise, 1x1 without activation."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int):
        super().__init__()
        wide = inputs * expansion
        expand = [conv_norm_relu6(inputs, wide, 1)] if expansion > 1 else []
        project = conv_norm(wide, outputs, 1)
        self.conv = nn.Sequential(*expand, conv_norm_relu6(wide, wide, 3, stride, wide), *project)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) if self.adds else self.conv(x)


class MobileNetV2(Encoder):
    """Source: Sandler et al., CVPR 2018; 2.22 M parameters.

    Features 32@/8, 96@/16, 1280@/32.
    """

    widths = (32, 96, 1280)
    strides = (8, 16, 32)

    def __init__(self):
        super().__init__()
        # expansion, width, blocks, stride
        plan = (
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        )
        layers: list[nn.Module] = [conv_norm_relu6(3, 32, 3, 2)]
        inputs = 32
        for expansion, width, blocks, stride in plan:
            for block in range(blocks):
                layers.append(InvertedResidual(inputs, width, 1 if block else stride, expansion))
                inputs = width
        self.features = nn.Sequential(*layers, conv_norm_relu6(inputs, 1280, 1))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        eighth = self.features[:7](x)
        sixteenth = self.features[7:14](eighth)
        return [eighth, sixteenth, self.features[14:](sixteenth)]


class ShuffleUnit(nn.Module):
    """ShuffleNetV2's block: half of the channels pass unchanged (with a stride: through other convolutions),
    then both halves are interleaved."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        half = outputs // 2
        self.splits = stride == 1
        self.branch1 = nn.Sequential()
        if not self.splits:
            self.branch1 = nn.Sequential(
                *conv_norm(inputs, inputs, 3, stride, inputs), *conv_bn_relu(inputs, half, 1)
            )
        self.branch2 = nn.Sequential(
            *conv_bn_relu(half if self.splits else inputs, half, 1),
            *conv_norm(half, half, 3, stride, half),
            *conv_bn_relu(half, half, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        near, far = x.chunk(2, 1) if self.splits else (x, x)
        halves = torch.stack([self.branch1(near), self.branch2(far)], 2)
        return halves.flatten(1, 2)


class ShuffleNetV2(Encoder):
    """Source: Ma et al., ECCV 2018; 1.25 M parameters.

    Features 116@/8, 232@/16, 1024@/32.
    """

    widths = (116, 232, 1024)
    strides = (8, 16, 32)

    def __init__(self):
        super().__init__()
        self.conv1 = conv_bn_relu(3, 24, 3, 2)
        self.stage2 = _shuffle_stage(24, 116, 4)
        self.stage3 = _shuffle_stage(116, 232, 8)
        self.stage4 = _shuffle_stage(232, 464, 4)
        self.conv5 = conv_bn_relu(464, 1024, 1)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        eighth = self.stage2(F.max_pool2d(self.conv1(x), 3, 2, 1))
        sixteenth = self.stage3(eighth)
        return [eighth, sixteenth, self.conv5(self.stage4(sixteenth))]


def _shuffle_stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    rest = (ShuffleUnit(outputs, outputs, 1) for _ in range(blocks - 1))
    return nn.Sequential(ShuffleUnit(inputs, outputs, 2), *rest)


class Decoder(nn.Module):
    """Upsample from ``stride`` to stride 4 by transposed convolutions of ``width`` channels, each followed by
    ``depth`` - 1 3x3 convolutions; predict the maps by a 1x1 convolution."""

    def __init__(self, inputs: int, stride: int, width: int, depth: int, maps: int):
        super().__init__()
        layers: list[nn.Module] = []
        while stride > STRIDE:
            layers.append(double(inputs, width))
            layers += [conv_bn_relu(width, width, 3) for _ in range(depth - 1)]
            inputs, stride = width, stride // 2
        self.layers = nn.Sequential(*layers)
        self.score = score(width, maps)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """x (B, inputs, h, w) -> the final maps alone, (B, maps, h * stride / 4, w * stride / 4)."""
        return [self.score(self.layers(x))]


def double(inputs: int, width: int) -> nn.Sequential:
    """Transposed 4x4 convolution to twice the size, batch norm, ReLU."""
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
    )
