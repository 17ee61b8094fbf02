"""One training step's forward half: normalise, augment, forward, named losses, their weighted sum."""

from __future__ import annotations

import torch
from torch import nn

from pose_kd_ros.core.cells import cell_grid

from .config import LossWeights
from .losses.task import keypoint_losses

MEAN, STD = (
    (0.485, 0.456, 0.406),
    (0.229, 0.224, 0.225),
)  # of RGB in [0, 1]; the bundle's manifest carries them


def normalise(images: torch.Tensor) -> torch.Tensor:
    """Images (B, 3, H, W) in [0, 1] -> zero mean, unit variance, channels last (the faster layout on CPU and
    GPU)."""
    mean, std = (images.new_tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


def losses(
    network: nn.Module,
    strides: tuple[int, ...],
    batch: dict[str, torch.Tensor],
    weights: LossWeights,
    augmentation: nn.Module | None = None,
) -> dict[str, torch.Tensor]:
    """Return the named loss terms of a batch (see ``data.targets``) and their weighted sum, ``total``."""
    images = batch["image"].float() / 255
    if augmentation is not None:
        with torch.no_grad():
            images = augmentation(images).clamp(0, 1)
    logits, offsets = network(normalise(images))
    centers, _ = cell_grid(*images.shape[-2:], strides)
    terms = keypoint_losses(
        logits, offsets, torch.tensor(centers, dtype=torch.float32, device=offsets.device), batch
    )
    terms["total"] = sum(getattr(weights, name) * term for name, term in terms.items())
    return terms
