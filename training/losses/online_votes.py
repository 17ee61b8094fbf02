# SPDX-License-Identifier: Apache-2.0
"""Online distillation of the keypoint family: branches of one network learn from the ensemble of their votes.

The aggregation unit of OKDHP weighs the branches' votes, ADLP's transport draws each branch's votes to the
ensemble's: no teacher is trained beforehand.
"""

from __future__ import annotations

import torch

from .distill import DistillConfig, adlp_loss, score_loss, student_votes, teacher_votes
from .online import OnlineConfig
from .task import keypoint_losses


def branch_vote_terms(
    outputs,
    centers: torch.Tensor,
    levels: torch.Tensor,
    batch: dict[str, torch.Tensor],
    size: tuple[int, int],
    weights,
    online: OnlineConfig,
) -> dict[str, torch.Tensor]:
    """Return the named terms of a network's ``BranchVotes``: the task's, summed over the branches,
    ``ensemble``, the same of what they make together, and what each learns from that.

    centers (N, 2) pixels and levels (N,) of the cells; size: (height, width) of the images; weights: of the
    task's terms, for ``ensemble``. Symmetric objects: all aim at the representative that the ensemble means.
    """
    branches = [(outputs.logits, outputs.offsets), *outputs.others]
    together = outputs.ensemble_logits.detach(), outputs.ensemble_offsets.detach()
    ensemble, meant = teacher_votes(*together, centers, levels, batch, DistillConfig().teacher_score)
    seen = ensemble.real.any(1) if ensemble.real.shape[1] else torch.zeros_like(meant, dtype=torch.bool)
    choice = torch.where(seen, meant, -1)
    each = [keypoint_losses(*branch, centers, batch, choice) for branch in branches]
    terms = {name: sum(of_one[name] for of_one in each) for name in each[0]}
    own = keypoint_losses(outputs.ensemble_logits, outputs.ensemble_offsets, centers, batch, choice)
    terms["ensemble"] = weights.score * own["score"] + weights.vote * own["vote"]
    if online.teacher == "none":
        return terms
    how = DistillConfig(eps=online.eps, max_sweeps=online.max_sweeps)
    moved = [adlp_loss(student_votes(*b, centers, batch), ensemble, size, how) for b in branches]
    terms["online_vote"] = sum(value for value, _ in moved)
    terms["online_unsolved"] = sum(unsolved for _, unsolved in moved) / len(moved)
    positives = batch["vote_weight"].sum()
    terms["online_score"] = sum(score_loss(logits, together[0], positives) for logits, _ in branches)
    return terms
