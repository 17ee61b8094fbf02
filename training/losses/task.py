# SPDX-License-Identifier: Apache-2.0
"""Task losses of the keypoint family. Every term is a weighted mean over the positives (+ images), so that no
loss weight depends on the batch size."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from training.data.targets import IGNORE

from .means import at_least_one, shared_mean

SMOOTH_KINK = 0.02  # of the diameter, where smooth-L1 turns from quadratic to linear (WDRNet)


def cell_weights(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the weight of each cell (B, N) in the score's loss: 1 for background, ``vote_weight`` for a cell
    that votes, 0 for ignored ones."""
    weights = (batch["cell_class"] != IGNORE).to(batch["vote_weight"])
    weights[batch["vote_image"], batch["vote_cell"]] = batch["vote_weight"]
    return weights


def focal_loss(
    logits: torch.Tensor,
    cell_class: torch.Tensor,
    cell_weight: torch.Tensor,
    gamma: float = 2.0,
    alpha: float = 0.25,
) -> torch.Tensor:
    """Sigmoid focal loss, weighted, summed over cells and classes, over (weight of positive cells + images).

    logits (B, N, C); cell_class (B, N): 0 background, 1 + class, IGNORE; cell_weight (B, N). Source: Lin et
    al., ICCV 2017.
    """
    logits = logits.float()
    target = F.one_hot(cell_class.clamp(min=0), logits.shape[-1] + 1)[..., 1:].to(logits)
    probability = logits.sigmoid()
    wrong = torch.where(target > 0, 1 - probability, probability)
    weight = torch.where(target > 0, alpha, 1 - alpha) * wrong**gamma
    loss = weight * F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    cell_weight = cell_weight.unsqueeze(-1)
    positive = (target * cell_weight).sum()
    return (loss * cell_weight).sum() / shared_mean(positive + len(logits), logits)


def ray_residual(votes: torch.Tensor, keypoints: torch.Tensor, K_inverse: torch.Tensor) -> torch.Tensor:
    """Return V p - p (P, R, K, 3), metres: how far keypoint p lies from the viewing ray of its vote.

    votes (P, K, 2) pixels; keypoints (P, R, K, 3) metres in the camera frame; K_inverse (P, 3, 3). V = v v^T
    / v^T v with v = K^-1 [u v 1]. Source: WDRNet's regression in object space.
    """
    rays = torch.cat([votes, torch.ones_like(votes[..., :1])], -1) @ K_inverse.transpose(-1, -2)
    rays = F.normalize(rays, dim=-1).unsqueeze(1)
    return rays * (rays * keypoints).sum(-1, keepdim=True) - keypoints


def relative_residual(
    votes: torch.Tensor, instance: torch.Tensor, batch: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Return the ray residual over the diameter (P, R, K, 3), for each representative; votes (P, K, 2)
    pixels, each for the instance (P,) named."""
    residual = ray_residual(votes.float(), batch["keypoints"][instance], batch["K_inverse"][instance])
    return residual / batch["diameter"][instance].view(-1, 1, 1, 1)


def smooth(residual: torch.Tensor) -> torch.Tensor:
    """Smooth-L1 (P, R) of residuals (P, R, K, 3), mean over the keypoints."""
    loss = F.smooth_l1_loss(residual, torch.zeros_like(residual), beta=SMOOTH_KINK, reduction="none")
    return loss.sum(-1).mean(-1)


def representative_losses(
    votes: torch.Tensor, instance: torch.Tensor, batch: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Return the loss (P, R) of votes (P, K, 2), pixels, for the instances (P,), against each
    representative."""
    return smooth(relative_residual(votes, instance, batch))


@torch.no_grad()
def best_representative(loss: torch.Tensor, instance: torch.Tensor, tied: torch.Tensor) -> torch.Tensor:
    """Return, for each instance, the tied representative (I,) that all its votes together are nearest to.

    loss (P, R) as ``representative_losses``; tied (I, R) bool.
    """
    total = loss.new_zeros(tied.shape).index_add_(0, instance, loss)
    return total.masked_fill(~tied, torch.inf).argmin(1)


def vote_terms(
    votes: torch.Tensor,
    batch: dict[str, torch.Tensor],
    choice: torch.Tensor | None = None,
    log_scale: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Return the terms ``vote`` and, for votes with a scale, ``likelihood``: weighted means over the votes
    (P, K, 2), pixels, of the taught cells, against one representative of each instance.

    choice: that representative (I,); where it is -1 or not given, the tied one that the votes are nearest to.
    log_scale (P,): logarithm of the scale in diameters.
    """
    weight = batch["vote_weight"]
    count = at_least_one(shared_mean(weight.sum(), votes))
    if not len(votes):
        empty = {"vote": votes, "likelihood": log_scale}
        return {name: values.sum() * 0.0 for name, values in empty.items() if values is not None}
    residual = relative_residual(votes, batch["vote_instance"], batch)
    loss = weight.unsqueeze(1) * smooth(residual)
    index = meant(loss, batch, choice)
    terms = {"vote": loss.gather(1, index.unsqueeze(1)).sum() / count}
    if log_scale is not None:
        own = residual[torch.arange(len(index), device=index.device), index]
        terms["likelihood"] = (weight * surprise(own, log_scale.float())).sum() / count
    return terms


def surprise(residual: torch.Tensor, log_scale: torch.Tensor) -> torch.Tensor:
    """Return the negative log-likelihood (P,), without its constant, of votes whose keypoints lie
    ``residual`` (P, K, 3) off their rays: the mean over the keypoints of r / b + 2 log b, for a Laplace
    distribution in the plane across the ray.

    log_scale (P,): log b, in the residual's unit. Source: Kendall & Gal, NeurIPS 2017.
    """
    distance = torch.linalg.vector_norm(residual, dim=-1).mean(-1)
    return distance * torch.exp(-log_scale) + 2 * log_scale


@torch.no_grad()
def meant(
    loss: torch.Tensor, batch: dict[str, torch.Tensor], choice: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the representative (P,) that each vote is compared with: that of its instance in ``choice``
    (I,), or, where this is -1 or not given, the one with the least loss (P, R) over the instance's votes."""
    instance = batch["vote_instance"]
    nearest = best_representative(loss, instance, batch["tied"])
    return (nearest if choice is None else torch.where(choice < 0, nearest, choice))[instance]


def votes_at(offsets: torch.Tensor, centers: torch.Tensor, image, cell, class_index) -> torch.Tensor:
    """Return the votes (P, K, 2), pixels of the crop, of some cells; offsets (B, N, C, K, 2), centers (N,
    2)."""
    return offsets[image, cell, class_index].float() + centers[cell].unsqueeze(1)


def taught_cells(batch: dict[str, torch.Tensor], drawn: bool = False) -> tuple[torch.Tensor, ...]:
    """Return image, cell, class and instance (P,) of the cells that vote; drawn: only of the randomly drawn
    ones."""
    named = tuple(batch[f"vote_{name}"] for name in ("image", "cell", "instance"))
    image, cell, instance = (n[batch["vote_drawn"]] for n in named) if drawn else named
    return image, cell, batch["class_index"][instance], instance


def taught_votes(
    offsets: torch.Tensor, centers: torch.Tensor, batch: dict[str, torch.Tensor], drawn: bool = False
) -> torch.Tensor:
    """Return the votes (P, K, 2), pixels, of the cells that ``taught_cells`` names."""
    return votes_at(offsets, centers, *taught_cells(batch, drawn)[:3])


def keypoint_losses(
    logits: torch.Tensor,
    offsets: torch.Tensor,
    centers: torch.Tensor,
    batch: dict[str, torch.Tensor],
    choice: torch.Tensor | None = None,
    log_scale: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Return the named terms of plain training: ``score``, ``vote`` and, with scales, ``likelihood``.

    logits (B, N, C); offsets (B, N, C, K, 2) pixels; centers (N, 2) pixels; choice as in ``vote_terms``;
    log_scale (B, N, C), of diameters.
    """
    votes = taught_votes(offsets, centers, batch)
    scales = None if log_scale is None else log_scale[taught_cells(batch)[:3]]
    score = focal_loss(logits, batch["cell_class"], cell_weights(batch))
    return {"score": score, **vote_terms(votes, batch, choice, scales)}
