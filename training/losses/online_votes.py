# SPDX-License-Identifier: Apache-2.0
"""Online distillation of the keypoint family: branches of one network learn from the ensemble of their votes.

OKDHP's aggregation unit weighs the branches' votes. ADLP's transport moves each branch's votes towards the
ensemble's. No teacher is trained beforehand.
"""

from __future__ import annotations

import torch

from ..models.keypoint import BranchVotes
from .distill import DistillConfig, adlp_loss, score_loss, student_votes, teacher_votes
from .means import total
from .online import OnlineConfig
from .task import keypoint_losses


def branch_vote_terms(
    outputs: BranchVotes,
    centers: torch.Tensor,
    levels: torch.Tensor,
    batch: dict[str, torch.Tensor],
    size: tuple[int, ...],
    weights,
    online: OnlineConfig,
) -> dict[str, torch.Tensor]:
    """Return the named terms of a network's ``BranchVotes``: the task's, summed over the branches;
    ``ensemble``, the task's terms of the ensemble; and the terms by which each branch learns from the
    ensemble.

    centers (N, 2) pixels and levels (N,) of the cells; size: (height, width) of the images; weights: of the
    task's terms, for ``ensemble``. Of a symmetric object, all branches have the representative as target that
    the ensemble is nearest to.
    """
    branches = [(outputs.logits, outputs.offsets), *outputs.others]
    logits, offsets = outputs.ensemble_logits, outputs.ensemble_offsets
    assert logits is not None and offsets is not None  # ``Keypoint.check`` asks for an aggregation
    least = DistillConfig().teacher_score
    ensemble, meant = teacher_votes(logits.detach(), offsets.detach(), centers, levels, batch, least)
    seen = ensemble.real.any(1) if ensemble.real.shape[1] else torch.zeros_like(meant, dtype=torch.bool)
    choice = torch.where(seen, meant, -1)
    each = [keypoint_losses(scores, votes, centers, batch, choice) for scores, votes in branches]
    terms = {name: total(of_one[name] for of_one in each) for name in each[0]}
    own = keypoint_losses(logits, offsets, centers, batch, choice)
    terms["ensemble"] = weights.score * own["score"] + weights.vote * own["vote"]
    if online.teacher == "none":
        return terms
    how = DistillConfig(eps=online.eps, max_sweeps=online.max_sweeps)
    students = [student_votes(scores, votes, centers, batch) for scores, votes in branches]
    moved = [adlp_loss(student, ensemble, size, how) for student in students]
    terms["online_vote"] = total(value for value, _ in moved)
    terms["online_unsolved"] = total(unsolved for _, unsolved in moved) / len(moved)
    positives = batch["vote_weight"].sum()
    terms["online_score"] = total(score_loss(scores, logits, positives) for scores, _ in branches)
    return terms
