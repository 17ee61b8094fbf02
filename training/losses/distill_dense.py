# SPDX-License-Identifier: Apache-2.0
"""Distillation of the dense family: by the distribution of surface codes (ADLP), or pixel by pixel (naive).

Source: Guo et al., CVPR 2023, section on dense predictions. A local prediction is the vector of a pixel's bit
probabilities, a point of [0, 1]^16; its mass is the mask's probability. Predictions are pooled before the
transport.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from .distill import CLAMP, DistillConfig
from .means import at_least_one, shared_mean
from .transport import sinkhorn_divergence

POOL = 8  # side, output pixels, of the squares that are averaged: 16 x 16 predictions from a crop of 256


@dataclass(frozen=True)
class CodeClouds:
    """Pooled predictions of I instances at the same S places: points (I, S, BITS) in [0, 1]; mass (I, S), the
    mean mask probability, 0 for padding."""

    points: torch.Tensor
    mass: torch.Tensor


def code_clouds(mask: torch.Tensor, codes: torch.Tensor, batch: dict[str, torch.Tensor]) -> CodeClouds:
    """Pool a network's predictions inside each instance's visible mask.

    mask (B, C, h, w) and codes (B, BITS, h, w): logits.
    """
    image = batch["instance_image"]
    own = torch.arange(len(image), device=image.device).view(-1, 1, 1)
    inside = (batch["instance_map"][image] == own).float()
    weight = mask[image, batch["class_index"]].float().sigmoid() * inside
    total = F.avg_pool2d(weight.unsqueeze(1), POOL)
    mean = F.avg_pool2d(codes[image].float().sigmoid() * weight.unsqueeze(1), POOL) / total.clamp(min=1e-9)
    cover = F.avg_pool2d(inside, POOL).flatten(1)
    widest = int((cover > 0).sum(1).max()) if len(cover) else 0
    place = cover.topk(widest, 1).indices  # the covered places first; further ones have no mass
    points = mean.flatten(2).transpose(1, 2).gather(1, place.unsqueeze(2).expand(-1, -1, codes.shape[1]))
    return CodeClouds(points, total.flatten(1).gather(1, place))


def adlp_code_loss(
    student: CodeClouds, teacher: CodeClouds, config: DistillConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ADLP's loss, mean over the instances that both see, and the share of unsolved problems."""
    both = (student.mass.sum(1) > 0) & (teacher.mass.sum(1) > 0)
    count = at_least_one(shared_mean(both.sum(), student.points))
    if not both.any():
        return student.points.sum() * 0.0 + student.mass.sum() * 0.0, student.points.new_zeros(())
    released = config.mass == "score"
    (x, a), (y, b) = ((c.points[both], masses(c.mass[both], released)) for c in (student, teacher))
    values, solved = sinkhorn_divergence(
        x, a, y.detach(), b.detach(), config.code_eps, config.rho, config.max_sweeps
    )
    return values.sum() / count, (~solved).sum() / count


def masses(mass: torch.Tensor, released: bool) -> torch.Tensor:
    """Return masses as ``distill.masses``: unnormalised, with gradient, in the released form; else with sum
    1."""
    if released:
        return torch.where(mass > 0, mass.clamp(CLAMP, 1 - CLAMP), 0.0)
    mass = mass.detach()
    return mass / mass.sum(1, keepdim=True).clamp(min=1e-12)


def naive_code_loss(
    student: torch.Tensor, teacher: torch.Tensor, batch: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Mean L1 distance of the bits' probabilities, pixel by pixel, inside all masks; logits (B, BITS, h,
    w)."""
    inside = (batch["instance_map"] >= 0).unsqueeze(1)
    error = (student.float().sigmoid() - teacher.float().sigmoid()).abs() * inside
    return error.sum() / at_least_one(shared_mean(inside.sum() * student.shape[1], student))


def mask_distance(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Mean L1 distance of the masks' probabilities; logits (B, C, h, w)."""
    return (student.float().sigmoid() - teacher.float().sigmoid()).abs().mean()


def code_terms(
    student, teacher, batch: dict[str, torch.Tensor], config: DistillConfig
) -> dict[str, torch.Tensor]:
    """Return the method's named terms; student, teacher: logits of masks and codes for the same images."""
    (mask, codes), (teacher_mask, teacher_codes) = student[:2], teacher[:2]
    if config.method == "naive":
        terms = {"kd_code": naive_code_loss(codes, teacher_codes, batch)}
    else:
        clouds = code_clouds(mask, codes, batch), code_clouds(teacher_mask, teacher_codes, batch)
        loss, unsolved = adlp_code_loss(*clouds, config)
        terms = {"kd_code": loss, "kd_unsolved": unsolved}
    if config.method == "naive" or config.mass == "normalised":
        terms["kd_mask"] = mask_distance(mask, teacher_mask)
    return terms
