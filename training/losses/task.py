"""Task losses of the keypoint family. Every term is a mean over positives (+ images), so no weight knows the
batch size."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from training.data.targets import IGNORE

SMOOTH_KINK = 0.02  # of the diameter, where smooth-L1 turns from quadratic to linear (WDRNet)


def focal_loss(
    logits: torch.Tensor, cell_class: torch.Tensor, gamma: float = 2.0, alpha: float = 0.25
) -> torch.Tensor:
    """Sigmoid focal loss summed over cells and classes, divided by (positive cells + images).

    logits (B, N, C); cell_class (B, N): 0 background, 1 + class, IGNORE. Source: Lin et al., ICCV 2017.
    """
    logits = logits.float()
    target = F.one_hot(cell_class.clamp(min=0), logits.shape[-1] + 1)[..., 1:].to(logits)
    probability = logits.sigmoid()
    wrong = torch.where(target > 0, 1 - probability, probability)
    weight = torch.where(target > 0, alpha, 1 - alpha) * wrong**gamma
    loss = weight * F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    kept = (cell_class != IGNORE).unsqueeze(-1)
    return (loss * kept).sum() / (target.sum() + len(logits))


def ray_residual(votes: torch.Tensor, keypoints: torch.Tensor, K_inverse: torch.Tensor) -> torch.Tensor:
    """Return V p - p (P, R, K, 3), metres: how far keypoint p lies from the viewing ray of its vote.

    votes (P, K, 2) pixels; keypoints (P, R, K, 3) metres in the camera frame; K_inverse (P, 3, 3).
    V = v v^T / v^T v with v = K^-1 [u v 1]. Source: WDRNet's regression in object space.
    """
    rays = torch.cat([votes, torch.ones_like(votes[..., :1])], -1) @ K_inverse.transpose(-1, -2)
    rays = F.normalize(rays, dim=-1).unsqueeze(1)
    return rays * (rays * keypoints).sum(-1, keepdim=True) - keypoints


def vote_loss(votes: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Smooth-L1 of the ray residual over the diameter; mean over votes of the best tied representative.

    votes (P, K, 2) pixels of the drawn cells. One representative is chosen per instance, by its mean over all
    votes.
    """
    if not len(votes):
        return votes.sum() * 0.0
    instance, tied = batch["vote_instance"], batch["tied"]
    residual = ray_residual(votes.float(), batch["keypoints"][instance], batch["K_inverse"][instance])
    residual = residual / batch["diameter"][instance].view(-1, 1, 1, 1)
    loss = F.smooth_l1_loss(residual, torch.zeros_like(residual), beta=SMOOTH_KINK, reduction="none")
    loss = loss.sum(-1).mean(-1)
    with torch.no_grad():
        total = loss.new_zeros(tied.shape).index_add_(0, instance, loss)
        choice = total.masked_fill(~tied, torch.inf).argmin(1)
    return loss.gather(1, choice[instance].unsqueeze(1)).mean()


def keypoint_losses(
    logits: torch.Tensor, offsets: torch.Tensor, centers: torch.Tensor, batch: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return the named terms of plain training: ``score`` and ``vote``.

    logits (B, N, C); offsets (B, N, C, K, 2) pixels; centers (N, 2) pixels.
    """
    cell, instance = batch["vote_cell"], batch["vote_instance"]
    votes = offsets[batch["vote_image"], cell, batch["class_index"][instance]].float() + centers[
        cell
    ].unsqueeze(1)
    return {"score": focal_loss(logits, batch["cell_class"]), "vote": vote_loss(votes, batch)}
