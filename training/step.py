"""One training step's forward half: normalise, augment, forward, named losses, their weighted sum."""

from __future__ import annotations

import torch
from torch import nn

from pose_kd_ros.core.cells import cell_grid

from .config import LossWeights
from .losses.task import keypoint_losses
from .teacher import Distillation

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
    distillation: Distillation | None = None,
) -> dict[str, torch.Tensor]:
    """Return the named loss terms of a batch (see ``data.targets``) and the weighted sum, ``total``, of those
    that have a weight."""
    images = batch["image"].float() / 255
    if augmentation is not None:
        with torch.no_grad():
            images = augmentation(images).clamp(0, 1)
    images = normalise(images)
    student = network(images, with_features=True)
    centers, _ = cell_grid(*images.shape[-2:], strides)
    centers = torch.tensor(centers, dtype=torch.float32, device=images.device)
    taught, choice = distillation.terms(images, student, centers, batch) if distillation else ({}, None)
    terms = keypoint_losses(*student[:2], centers, batch, choice) | taught
    weighted = {name: getattr(weights, name) for name in terms if hasattr(weights, name)}
    terms["total"] = sum(weight * terms[name] for name, weight in weighted.items())
    return terms
