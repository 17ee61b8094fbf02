# SPDX-License-Identifier: Apache-2.0
"""Distillation of a teacher's local predictions: ADLP, and cell by cell (naive).

Source: Guo et al., Knowledge Distillation for 6D Pose Estimation by Aligning Distributions of Local
Predictions, CVPR 2023. The teacher's cells do not correspond to the student's. ADLP therefore compares their
votes as two distributions, by optimal transport (``transport``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch.nn import functional as F

from .means import at_least_one, shared_mean
from .task import best_representative, representative_losses, taught_cells, votes_at
from .transport import sinkhorn_divergence

Method = Literal["none", "naive", "fkd", "adlp", "adlp+fkd", "kl"]
CLAMP = 1e-3  # released form: masses are scores clamped to [CLAMP, 1 - CLAMP]


@dataclass(frozen=True)
class DistillConfig:
    """The teacher of a student, and the method."""

    method: Method = "none"
    """none: no teacher. naive: the teacher's output, cell by cell. fkd: its features. adlp: the distribution
    of its votes, codes or maps. kl, heatmaps only: pixel-wise between their softmaxes."""
    teacher: Path | None = None
    """Folder of the teacher's run; it must have been exported, which measures it."""
    floor: float = 0.2
    """Refuse a teacher that finds a smaller share of the objects of its validation split."""
    mass: Literal["normalised", "score"] = "normalised"
    """adlp: mass of a vote. normalised: the votes for an object share a mass of 1, and scores have a separate
    term. score: the cell's score, as in the released code (with --distill.rho 0.25 --distill.eps 1e-6)."""
    eps: float = 1e-4
    """adlp: blur of the transport, in squared crop sizes: 1e-4 is a hundredth of the crop."""
    code_eps: float = 0.1
    """adlp, dense: the same for surface codes, where a wrong bit is at cost 1/2."""
    rho: float | None = None
    """adlp: cost of a unit of mass that is not moved. None: all must be moved. mass score needs a number."""
    max_sweeps: int = 40
    """adlp: largest number of sweeps of the solver; kd_unsolved logs the share of unsolved problems."""
    teacher_score: float = 0.1
    """adlp: cells of the teacher below this score do not vote."""
    uncertainty: bool = False
    """adlp: keypoints that the teacher's own votes disagree on count less (UAKD)."""
    ratio: float | None = None
    """Scale the weights of the teacher's terms so that the norm of their gradient over that of the task's, at
    the features of the encoder, is this. It is measured in ten steps after a tenth of the run; before, the
    student does not learn from the teacher. None: keep the weights."""
    lead: float = 0.0
    """Share of the student's steps, from the start, in which it does not learn from the teacher."""
    ramp: float = 0.0
    """Share of the student's steps, after the lead, in which the weights of the teacher's terms rise from
    0."""

    def __post_init__(self):
        if self.ratio is not None and not self.ratio > 0:
            raise ValueError(f"distill.ratio: wanted > 0, found {self.ratio}")
        if not (0 <= self.lead and 0 <= self.ramp and self.lead + self.ramp <= 1):
            raise ValueError(
                "distill.lead, distill.ramp: wanted shares of the steps, at most 1 together, "
                f"found {self.lead} and {self.ramp}"
            )
        if self.method != "none" and self.teacher is None:
            raise ValueError(f"--distill.teacher: wanted the folder of a run for {self.method}, found none")
        if self.method in ("adlp", "adlp+fkd") and (self.mass == "score") != (self.rho is not None):
            raise ValueError(
                "distill.rho: wanted a number for mass score (released: 0.25) and none for mass normalised, "
                f"found mass {self.mass}, rho {self.rho}"
            )

    def share(self, progress: float) -> float:
        """Return the factor of the weights of the teacher's terms after a share ``progress`` of the steps: 0
        in the lead, then rising to 1. Convention: lead 0.2, ramp 0.2: 0.5 at progress 0.3."""
        since = progress - self.lead
        return float(since >= 0) if since >= self.ramp or since < 0 else since / self.ramp

    @property
    def wants_features(self) -> bool:
        return self.method in ("fkd", "adlp+fkd")


@dataclass(frozen=True)
class Votes:
    """Local predictions of I instances, at most S of each: points (I, S, K, 2) pixels, scores (I, S), real
    (I, S) bool, False for padding."""

    points: torch.Tensor
    scores: torch.Tensor
    real: torch.Tensor


def pack(instance: torch.Tensor, count: int, points: torch.Tensor, scores: torch.Tensor) -> Votes:
    """Return the votes (P, K, 2) and scores (P,) of the instances (P,), gathered for each of ``count``
    instances."""
    order = torch.argsort(instance, stable=True)
    instance, points, scores = instance[order], points[order], scores[order]
    size = torch.bincount(instance, minlength=count)
    place = torch.arange(len(instance), device=instance.device) - (size.cumsum(0) - size)[instance]
    widest = int(size.max()) if count else 0
    empty = points.new_zeros(count, widest, *points.shape[1:]), scores.new_zeros(count, widest)
    real = torch.zeros(count, widest, dtype=torch.bool, device=instance.device)
    index = (instance, place)
    return Votes(
        empty[0].index_put(index, points),
        empty[1].index_put(index, scores),
        real.index_put(index, torch.ones_like(instance, dtype=torch.bool)),
    )


def student_votes(logits, offsets, centers, batch) -> Votes:
    """Return the student's votes of the drawn cells, with gradient.

    Only the drawn cells vote, even if ``crops.cells`` is "all": the teacher has as many votes, and transport
    between ten and ten votes costs a hundredth of that between a hundred and a hundred. Over many steps the
    drawn cells represent all cells, with the weights that these have in the task's losses.
    """
    image, cell, class_index, instance = taught_cells(batch, drawn=True)
    scores = logits[image, cell, class_index].float().sigmoid()
    points = votes_at(offsets, centers, image, cell, class_index)
    return pack(instance, len(batch["class_index"]), points, scores)


@torch.no_grad()
def teacher_votes(logits, offsets, centers, levels, batch, least: float) -> tuple[Votes, torch.Tensor]:
    """Return the votes of the teacher's best cells in each instance's visible mask, as many of a level as the
    student draws, with scores above ``least``; and the symmetry representative (I,) that they are nearest to.

    levels (N,): the level of each cell. Cells of levels that the student lacks do not vote. No PnP is needed.
    """
    cell, instance = batch["inside_cell"], batch["inside_instance"]
    image, class_index = batch["instance_image"][instance], batch["class_index"][instance]
    scores = logits[image, cell, class_index].float().sigmoid()
    kind = instance * batch["quota"].shape[1] + levels[cell]
    order = torch.argsort(scores, descending=True, stable=True)
    order = order[torch.argsort(kind[order], stable=True)]
    size = torch.bincount(kind, minlength=batch["quota"].numel())
    rank = torch.arange(len(kind), device=kind.device) - (size.cumsum(0) - size)[kind[order]]
    chosen = order[(rank < batch["quota"].flatten()[kind[order]]) & (scores[order] > least)]
    chosen = chosen.sort().values
    points = votes_at(offsets, centers, image[chosen], cell[chosen], class_index[chosen])
    meant = best_representative(
        representative_losses(points, instance[chosen], batch), instance[chosen], batch["tied"]
    )
    return pack(instance[chosen], len(batch["class_index"]), points, scores[chosen]), meant


def adlp_loss(
    student: Votes, teacher: Votes, size: tuple[int, ...], config: DistillConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ADLP's loss, summed over keypoints and averaged over the instances that both vote for, and the
    share of transport problems that were not solved.

    size: (height, width) of the crop. Coordinates are divided by its larger side; in the released form u by
    the width and v by the height.
    """
    both = student.real.any(1) & teacher.real.any(1)
    count = at_least_one(shared_mean(both.sum(), student.points))
    if not both.any():
        return student.points.sum() * 0.0 + student.scores.sum() * 0.0, student.points.new_zeros(())
    height, width = size
    released = config.mass == "score"
    scale = student.points.new_tensor([width, height] if released else [max(size)] * 2)
    (x, a), (y, b) = (
        (votes.points[both] / scale, masses(votes, released)[both]) for votes in (student, teacher)
    )
    keypoints = x.shape[2]
    values, solved = sinkhorn_divergence(
        x.transpose(1, 2).flatten(0, 1),
        a.repeat_interleave(keypoints, 0),
        y.transpose(1, 2).flatten(0, 1),
        b.repeat_interleave(keypoints, 0),
        config.eps,
        config.rho,
        config.max_sweeps,
    )
    values = values.view(-1, keypoints)
    if config.uncertainty:
        values = values * certainty(y, b)
    return values.sum() / count, (~solved).sum() / (count * keypoints)


def masses(votes: Votes, released: bool) -> torch.Tensor:
    """Return the mass (I, S) of each vote. Released form: its score, with gradient. Else its share of the
    instance's scores, without gradient, so that the transport moves votes only."""
    if released:
        return votes.scores.clamp(CLAMP, 1 - CLAMP) * votes.real
    scores = votes.scores.detach().clamp(min=1e-6) * votes.real
    return scores / scores.sum(1, keepdim=True).clamp(min=1e-12)


@torch.no_grad()
def certainty(points: torch.Tensor, mass: torch.Tensor) -> torch.Tensor:
    """Return weights (I, K), mean 1 over the keypoints: 1 / (1 + s_k^2 / mean s^2) of the scatter s_k of the
    teacher's votes (I, S, K, 2) with mass (I, S). The idea is UAKD's (arXiv 2503.13053), which uses the
    scatter of an ensemble instead."""
    share = (mass / mass.sum(1, keepdim=True))[..., None, None]
    scatter = (share * (points - (share * points).sum(1, keepdim=True)) ** 2).sum((1, 3))
    weight = 1 / (1 + scatter / scatter.mean(1, keepdim=True).clamp(min=1e-12))
    return weight / weight.mean(1, keepdim=True)


def score_loss(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, positives: torch.Tensor | int
) -> torch.Tensor:
    """Return the loss of the student's scores with the teacher's as soft targets, summed over all cells that
    both have, over (positives + images).

    logits (B, N, C). The cross-entropy is weighted by the squared difference (quality focal loss, Li et al.
    2020), so that the thousands of cells that both know to be empty have no weight.
    """
    count = min(student_logits.shape[1], teacher_logits.shape[1])
    logits, target = student_logits[:, :count].float(), teacher_logits[:, :count].detach().float().sigmoid()
    weight = (target - logits.sigmoid()) ** 2
    loss = weight * F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return loss.sum() / shared_mean(positives + len(logits), logits)


def naive_vote_loss(student, teacher, size: tuple[int, ...]) -> torch.Tensor:
    """Return the mean L1 distance, in crop sizes, of the student's votes (P, K, 2) from the teacher's of the
    same cells."""
    count = at_least_one(shared_mean(student.numel(), student))
    return (student - teacher.detach()).abs().sum() / (count * max(size))
