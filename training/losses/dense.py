# SPDX-License-Identifier: Apache-2.0
"""Task losses of the dense family (ZebraPose): L1 of the mask, cross-entropy of the code's bits inside it."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from pose_kd_ros.core.surface import BITS
from training.data.dense_targets import UNUSED

from .means import at_least_one, shared_mean

MEMORY = 0.05  # weight of one step in the running errors of the bits (ZebraPose)


def mask_loss(mask: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Mean L1 distance of the mask's probabilities from the visible masks; without the pixels of unused
    instances.

    mask: logits (B, C, h, w).
    """
    instance = batch["instance_map"]
    classes = F.pad(batch["class_index"], (1, 1), value=-1)  # of background and unused pixels: none
    seen = classes[instance.clamp(min=-1) + 1].unsqueeze(1)
    target = (seen == torch.arange(mask.shape[1], device=mask.device).view(1, -1, 1, 1)).float()
    kept = (instance != UNUSED).unsqueeze(1)
    error = (mask.float().sigmoid() - target).abs() * kept
    return error.sum() / at_least_one(shared_mean(kept.sum() * mask.shape[1], mask))


def bits_of(codes: torch.Tensor) -> torch.Tensor:
    """Bits (..., BITS) float of codes (...), the coarsest first."""
    places = torch.arange(BITS - 1, -1, -1, device=codes.device, dtype=codes.dtype)
    return ((codes.unsqueeze(-1) >> places) & 1).float()


def bit_weights(bit_error: torch.Tensor) -> torch.Tensor:
    """Return weights (BITS,), proportional to exp(3 min(h, 1/2 - h)), sum 1. Bits that are being learnt have
    the largest, known bits and those still at chance the smallest. h: running errors."""
    weight = torch.exp(3 * torch.minimum(bit_error, 0.5 - bit_error).clamp(min=0))
    return weight / weight.sum()


def code_loss(
    codes: torch.Tensor,
    batch: dict[str, torch.Tensor],
    bit_error: torch.Tensor,
    choice: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the weighted cross-entropy, mean over the pixels of all masks; each bit's share of errors
    (BITS,), NaN without a pixel; and which maps (M,) bool were the targets.

    codes: logits (B, BITS, h, w). Where symmetry ties several maps, the whole instance has one as target:
    that of ``choice`` (M,) bool, which comes from a teacher, else the nearest.
    """
    image, instance = batch["map_image"], batch["map_instance"]
    inside = batch["instance_map"][image] == instance.view(-1, 1, 1)
    place, v, u = inside.nonzero(as_tuple=True)
    logits = codes[image[place], :, v, u].float()
    target = bits_of(batch["code_maps"][place, v, u])
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none") @ bit_weights(bit_error)
    chosen = choice
    if chosen is None:
        chosen = nearest_maps(loss.detach(), place, instance, len(batch["class_index"]))
    kept = chosen[place]
    count = shared_mean(kept.sum(), codes)
    wrong = ((logits > 0) != (target > 0.5)).float()[kept].sum(0)
    wrong = torch.where(count > 0, shared_mean(wrong, codes) / at_least_one(count), torch.nan)
    return (loss * kept).sum() / at_least_one(count), wrong, chosen


@torch.no_grad()
def nearest_maps(loss: torch.Tensor, place: torch.Tensor, instance: torch.Tensor, count: int) -> torch.Tensor:
    """Return whether each map (M,) is its instance's nearest; loss (P,): of pixels in the maps ``place``
    (P,)."""
    total = loss.new_zeros(len(instance)).index_add_(0, place, loss)
    best = loss.new_full((count,), torch.inf).scatter_reduce_(0, instance, total, "amin")
    ours = total <= best[instance]
    order = torch.arange(len(instance), device=loss.device)
    first = torch.full((count,), len(instance), device=loss.device).scatter_reduce_(
        0, instance[ours], order[ours], "amin"
    )
    return ours & (order == first[instance])  # of equally near maps only the first


def dense_losses(mask, codes, batch, bit_error, choice=None) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return the named terms ``mask`` and ``code``, and each bit's share of errors; choice as
    ``code_loss``."""
    code, wrong, _ = code_loss(codes, batch, bit_error, choice)
    return {"mask": mask_loss(mask, batch), "code": code}, wrong


@torch.no_grad()
def meant_maps(codes: torch.Tensor, batch: dict[str, torch.Tensor], bit_error: torch.Tensor) -> torch.Tensor:
    """Return which map (M,) bool of each instance a teacher's codes, logits (B, BITS, h, w), are nearest
    to."""
    return code_loss(codes, batch, bit_error)[2]


@torch.no_grad()
def remember(bit_error: torch.Tensor, wrong: torch.Tensor) -> None:
    """Update the running errors (BITS,) in place by those of a step; NaN, for bits without a pixel, is
    skipped."""
    bit_error += MEMORY * torch.where(wrong.isnan(), 0.0, wrong - bit_error)
