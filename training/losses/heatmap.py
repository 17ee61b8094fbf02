# SPDX-License-Identifier: Apache-2.0
"""Task loss of the heatmap family: every supervised map against a unit-peak Gaussian about its keypoint."""

from __future__ import annotations

import torch

from .means import at_least_one, shared_mean

SIGMA = 2.0  # of the targets, map pixels, as the papers use it at 64 x 64


def gaussian_maps(points: torch.Tensor, shape: tuple[int, ...], stride: int) -> torch.Tensor:
    """Return targets (B, K, *shape): Gaussians with a peak of 1 at points (B, K, 2), crop pixels. The centres
    are not rounded to map pixels: that would cost half of the poses, see docs/online_distillation.md.

    Convention: with stride 4 the crop's pixel 5.5 is the map's pixel 1.
    """
    centers = ((points.float() + 0.5) / stride - 0.5).unsqueeze(-1)
    across, along = (
        torch.exp(-((torch.arange(n, device=points.device) - centers[:, :, axis]) ** 2) / (2 * SIGMA**2))
        for axis, n in ((0, shape[1]), (1, shape[0]))
    )
    return along.unsqueeze(-1) * across.unsqueeze(-2)


def of_class(maps: torch.Tensor, class_index: torch.Tensor) -> torch.Tensor:
    """Return the maps (..., B, K, h, w) of each crop's object, from those of all classes (..., B, C,
    K, h, w)."""
    image = torch.arange(len(class_index), device=maps.device)
    return maps[..., image, class_index, :, :, :].float()


def over_visible(values: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """Return the mean of values (..., B, K) over the visible keypoints (B, K), 0 without any, summed over the
    leading dimensions."""
    return (values * visible).sum() / at_least_one(shared_mean(visible.sum(), values))


def map_loss(maps: torch.Tensor, target: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error per pixel of maps (..., B, K, h, w), averaged over the visible keypoints,
    summed over the leading dimensions."""
    return over_visible((maps - target).square().mean((-1, -2)), visible)


def empty_loss(maps: torch.Tensor, absent: torch.Tensor) -> torch.Tensor:
    """Return the mean square per pixel of the maps (..., B, C, K, h, w) of classes that are not in the crop,
    absent (B, C), summed over the leading dimensions. It teaches the maps to tell classes apart."""
    return over_visible(maps.float().square().mean((-1, -2, -3)), absent)
