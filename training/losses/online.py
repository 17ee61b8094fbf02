# SPDX-License-Identifier: Apache-2.0
"""Online distillation: the branches of one network learn from their ensemble, or from each other.

Source: Li et al., Online Knowledge Distillation for Efficient Pose Estimation, ICCV 2021 (OKDHP). What
teaches the branches and how maps are compared are two independent choices. A heatmap after a spatial softmax
is a distribution over pixels, so that optimal transport (``transport``) can compare it, too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from .distill import DistillConfig
from .heatmap import over_visible
from .means import total
from .transport import sinkhorn_divergence

STRONGEST = 32  # pixels of each map that are transported: at temperature 0.1 they hold nearly all mass
Alignment = Literal["kl", "l2", "transport"]
ALIGNMENTS: dict[str, Alignment] = {"naive": "l2", "kl": "kl", "adlp": "transport"}  # by distill.method


@dataclass(frozen=True)
class OnlineConfig:
    """What teaches the branches of a network, and how."""

    teacher: Literal["none", "ensemble", "peers"] = "none"
    """ensemble: the weighted sum of all branches. peers: each branch learns from every other branch (deep
    mutual learning)."""
    align: Alignment = "kl"
    """kl: pixel-wise, between the maps' spatial softmaxes. l2: squared difference. transport: optimal
    transport of the softmaxes, or of votes, which have no other alignment."""
    temperature: float = 0.1
    """Temperature of the softmax for kl and transport between maps: at 0.1 a unit peak holds 94 % of the
    mass, at 1 only 5 %."""
    ramp: float = 0.6
    """Share of the steps in which the weight rises to its full value, as exp(-5 (1 - share)^2)."""
    ramp_every: int = 1
    """Steps between rises of the weight: 1 for every step, an epoch's steps for every epoch."""
    eps: float = 1e-4
    """transport: blur in squared crop sizes."""
    max_sweeps: int = 40
    """transport: largest number of sweeps of the solver."""
    ratio: float | None = None
    """As ``--distill.ratio``, for the terms by which branches learn from their teacher."""
    released: bool = False
    """Use kl as in the released code: temperature 1, the ensemble not detached, and a mean over pixels where
    ours is a sum. For 16 keypoints at 64x64 it has 1/128 of our weight, relative to the squared error."""

    def __post_init__(self):
        if self.ratio is not None and not self.ratio > 0:
            raise ValueError(f"online.ratio: wanted > 0, found {self.ratio}")
        if self.temperature <= 0 or self.ramp_every < 1 or not 0 <= self.ramp <= 1:
            raise ValueError(
                "online: wanted temperature > 0, ramp_every >= 1, ramp in 0..1; found "
                f"{self.temperature}, {self.ramp_every}, {self.ramp}"
            )
        if self.released and (self.teacher, self.align) != ("ensemble", "kl"):
            raise ValueError(
                f"online.released: wanted teacher ensemble and align kl, found {self.teacher}, {self.align}"
            )
        if self.released and self.temperature != 1.0:
            raise ValueError(f"online.released: wanted temperature 1, found {self.temperature}")

    def share(self, step: int, steps: int) -> float:
        """Return the factor of the weight at a step. Convention: with 150 epochs and a ramp of 0.6, it is
        exp(-1.25) = 0.29 at epoch 45, and 1 from epoch 90 on."""
        end = self.ramp * steps
        step -= step % self.ramp_every
        return 1.0 if step >= end else math.exp(-5 * (1 - step / end) ** 2)


def spatial_log_softmax(maps: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return the logarithms (..., h * w) of maps (..., h, w) as distributions over pixels."""
    return torch.log_softmax(maps.float().flatten(-2) / temperature, -1)


def pixel_kl(teacher: torch.Tensor, student: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return KL(teacher || student) (..., B, K) of maps (..., B, K, h, w), in 32 bits, times temperature^2,
    so that gradients keep their size (Hinton et al. 2015)."""
    p, q = (spatial_log_softmax(maps, temperature) for maps in (teacher, student))
    return temperature**2 * (p.exp() * (p - q)).sum(-1)


def map_transport(
    teacher: torch.Tensor, student: torch.Tensor, config: OnlineConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the transport divergence (..., B, K) of maps (..., B, K, h, w) and the share of unsolved
    problems.

    Clouds are the strongest pixels of both maps, in map sizes, with their share of the softmax as mass. The
    gradient goes through the student's masses.
    """
    lead, (height, width) = student.shape[:-2], student.shape[-2:]
    clouds = [cloud(maps.expand_as(student), config.temperature) for maps in (student, teacher)]
    scale = max(height, width)
    (x, a), (y, b) = (
        (torch.stack([place % width, place // width], -1) / scale, mass) for place, mass in clouds
    )
    values, solved = sinkhorn_divergence(x, a, y, b.detach(), config.eps, None, config.max_sweeps)
    return values.view(lead), (~solved).float().mean()


def cloud(maps: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the indices (P, S) and masses (P, S), sum 1, of the strongest pixels of maps (..., h, w)."""
    flat = maps.float().flatten(-2).flatten(0, -2)
    values, place = flat.topk(min(STRONGEST, flat.shape[-1]), -1)
    return place, torch.softmax(values / temperature, -1)


def distance(
    teacher: torch.Tensor, student: torch.Tensor, visible: torch.Tensor, config: OnlineConfig
) -> dict[str, torch.Tensor]:
    """Return the term ``online`` of a teacher's maps (..., B, K, h, w), summed over the leading dimensions;
    visible (B, K). The teacher's maps are detached, except in the released form."""
    if config.released:
        # Its KL is summed over keypoints and averaged over pixels, next to half of the squared error's mean.
        keypoints, pixels = student.shape[-3], student.shape[-1] * student.shape[-2]
        values = pixel_kl(teacher, student, 1.0)
        return {"online": over_visible(values, visible) * 2 * keypoints / pixels}
    teacher = teacher.detach()
    if config.align == "transport":
        values, unsolved = map_transport(teacher, student, config)
        return {"online": over_visible(values, visible), "online_unsolved": unsolved}
    if config.align == "l2":
        return {"online": over_visible((student - teacher).square().mean((-1, -2)), visible)}
    return {"online": over_visible(pixel_kl(teacher, student, config.temperature), visible)}


def map_terms(
    teacher: torch.Tensor, student: torch.Tensor, visible: torch.Tensor, config: DistillConfig
) -> dict[str, torch.Tensor]:
    """Return the named terms of a frozen teacher's maps (B, K, h, w) for a student's (..., B, K, h, w): their
    squared difference (naive, which is FPD if both weights are 1/2), the pixel-wise KL (kl), or their
    transport (adlp)."""
    how = OnlineConfig(align=ALIGNMENTS[config.method], eps=config.eps, max_sweeps=config.max_sweeps)
    terms = distance(teacher, student, visible, how)
    return {name.replace("online", "kd" if "_" in name else "kd_map"): term for name, term in terms.items()}


def online_terms(
    final: torch.Tensor,
    supervised: torch.Tensor,
    ensemble: torch.Tensor | None,
    visible: torch.Tensor,
    config: OnlineConfig,
) -> dict[str, torch.Tensor]:
    """Return the named terms by which the branches learn from their ensemble or from each other.

    final (T, B, K, h, w): the branches' last maps. supervised (M, B, K, h, w): all maps that learn, the
    intermediate ones too. ensemble (B, K, h, w), needed where it is the teacher.
    """
    if config.teacher == "none":
        return {}
    if config.teacher == "ensemble":
        assert ensemble is not None  # ``Family.check`` asks for an aggregation
        return distance(ensemble, supervised, visible, config)
    if len(final) == 1:
        return {"online": final.sum() * 0.0}
    each = [distance(final.roll(-turn, 0), final, visible, config) for turn in range(1, len(final))]
    return {name: total(terms[name] for terms in each) / len(each) for name in each[0]}


def gradient_ratio(
    student: torch.Tensor,
    teacher: torch.Tensor,
    target: torch.Tensor,
    visible: torch.Tensor,
    config: OnlineConfig,
    weights: tuple[float, float],
) -> torch.Tensor:
    """Return the norm of the gradient of the weighted alignment at one map, over that of its weighted error
    against the truth. student, teacher, target (B, K, h, w); weights: of the task's term and of
    ``online``."""
    with torch.enable_grad():
        leaf = student.detach().requires_grad_()
        taught = weights[1] * distance(teacher.detach(), leaf, visible, config)["online"]
        error = weights[0] * over_visible((leaf - target).square().mean((-1, -2)), visible)
        norms = [torch.autograd.grad(term, leaf)[0].norm() for term in (taught, error)]
    return norms[0] / norms[1].clamp(min=1e-20)
