# SPDX-License-Identifier: Apache-2.0
"""Networks of the surface family: for every fourth pixel the object that it sees, which point of it, and the
uncertainty of that point.

Sources: surface coordinates as in Pix2Pose (Park et al., ICCV 2019) and GDR-Net (Wang et al., CVPR
2021); a Laplace scale per pixel as in Kendall & Gal, NeurIPS 2017; a top-down decoder as in FPN (Lin et
al., CVPR 2017).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from .base import Network
from .checks import check_least
from .encoders import ENCODERS, PyramidName, make_encoder
from .resnet import conv_bn_relu

STRIDE = 4  # of the output: 32 x 32 for a crop of 128
CHANNELS = 5  # for each class: mask, three coordinates, logarithm of their scale
RARE = -3.0  # initial logit of a mask: most pixels see no object
LOG_SCALE = (-6.0, 2.0)  # logarithm of a coordinate's error in radii of the object: from 0.25 % of one to 7


@dataclass(frozen=True)
class SurfaceConfig:
    """Shape of a surface network. width: channels of the decoder."""

    backbone: PyramidName = "lite0"
    width: int = 64
    classes: int = 1
    frozen: int = 2
    """Stages of a lite encoder, after its stem, whose weights and statistics do not change."""

    pretrained: bool = True
    """Start a lite encoder from ImageNet weights."""

    coarsest: Literal[16, 32] = 32
    """Stride of a lite encoder's last features. 16: without its last two stages, a third of the size."""

    family: Literal["surface"] = "surface"

    def __post_init__(self):
        check_least(self, width=1, classes=1, frozen=0)

    @property
    def strides(self) -> tuple[int, ...]:
        return (STRIDE,)

    @property
    def input_stride(self) -> int:
        """Number of pixels that a crop's side must be a multiple of."""
        encoder = ENCODERS[self.backbone]
        return self.coarsest if encoder.weights else encoder.strides[-1]

    @property
    def plain(self) -> SurfaceConfig:
        """What is deployed: the whole network, since it has no branches."""
        return self


class Surface(NamedTuple):
    """Outputs of a surface network for B images, at every fourth pixel, for each of C classes."""

    mask: torch.Tensor
    """(B, C, h, w): logits of seeing the class."""

    points: torch.Tensor
    """(B, C, 3, h, w): the point that is seen, from the centre of the object's box, in radii (half
    diameters)."""

    log_scale: torch.Tensor
    """(B, C, h, w): logarithm of the Laplace scale of the points' coordinates, in radii."""


class TopDown(nn.Module):
    """Decode from the coarsest of several features to the finest stride. Each step doubles the size, adds the
    next feature and applies a 3x3 convolution."""

    def __init__(self, widths: tuple[int, ...], strides: tuple[int, ...], width: int, stride: int):
        super().__init__()
        self.outputs = width
        self.sides = nn.ModuleDict({str(s): nn.Conv2d(w, width, 1) for s, w in zip(strides, widths)})
        self.strides = strides
        steps = [s for s in (16, 8, 4, 2) if stride <= s < strides[-1]]
        self.steps = nn.ModuleDict({str(s): conv_bn_relu(width, width, 3) for s in steps})

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        given = {str(s): f for s, f in zip(self.strides, features)}
        last = str(self.strides[-1])
        x = self.sides[last](given[last])
        for name, step in self.steps.items():
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            x = step(x + self.sides[name](given[name]) if name in given else x)
        return x


class SurfaceNetwork(Network):
    """Encoder, top-down decoder to stride 4, two convolutions; predicts CHANNELS values for each class."""

    def __init__(self, config: SurfaceConfig):
        super().__init__()
        self.config = config
        self.backbone = encoder = make_encoder(config.backbone, config.frozen, config.coarsest)
        self.decoder = TopDown(encoder.widths, encoder.strides, config.width, STRIDE)
        self.body = nn.Sequential(*(conv_bn_relu(config.width, config.width, 3) for _ in range(2)))
        self.last = nn.Conv2d(config.width, CHANNELS * config.classes, 1)
        assert self.last.bias is not None
        with torch.no_grad():
            self.last.bias[::CHANNELS] = RARE

    def forward(self, images: torch.Tensor, with_features: bool = False):
        """images (B, 3, H, W), normalised -> ``Surface``. with_features: also the decoder's features (B,
        width, H/4, W/4)."""
        features = self.body(self.decoder(self.backbone(images)))
        return (self.read(features), features) if with_features else self.read(features)

    def read(self, features: torch.Tensor) -> Surface:
        """Return the outputs from the decoder's features (B, width, h, w)."""
        # coordinates need more than bf16's eight bits
        with torch.autocast(features.device.type, enabled=False):
            outputs = self.last(features.float()).unflatten(1, (self.config.classes, CHANNELS))
        return Surface(outputs[:, :, 0], outputs[:, :, 1:4], outputs[:, :, 4].clamp(*LOG_SCALE))
