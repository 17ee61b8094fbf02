# SPDX-License-Identifier: Apache-2.0
"""Task losses of the surface family: cross-entropy of the masks, distance and Laplace likelihood
of the points."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from training.data.dense_targets import UNUSED
from training.models.surface import Surface

from .means import at_least_one, shared_mean


def mask_loss(mask: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the cross-entropy of the masks' logits (B, C, h, w), summed over the classes, mean over the
    pixels without those of unused instances."""
    instance = batch["instance_map"]
    classes = F.pad(batch["class_index"], (1, 1), value=-1)  # of background and unused pixels: none
    seen = classes[instance.clamp(min=-1) + 1].unsqueeze(1)
    target = (seen == torch.arange(mask.shape[1], device=mask.device).view(1, -1, 1, 1)).float()
    kept = (instance != UNUSED).unsqueeze(1)
    loss = F.binary_cross_entropy_with_logits(mask.float(), target, reduction="none") * kept
    return loss.sum() / at_least_one(shared_mean(kept.sum(), mask))


def point_losses(surface: Surface, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two means over the pixels of all used instances: the points' distance (sum over the coordinates)
    in radii, and their negative log-likelihood under the Laplace scale of each pixel.

    Where symmetry ties several representatives, a whole instance has the nearest as target.
    """
    image, v, u = (batch["instance_map"] >= 0).nonzero(as_tuple=True)
    instance = batch["instance_map"][image, v, u]
    index = batch["class_index"][instance]
    found = surface.points[image, index, :, v, u].float()
    log_scale = surface.log_scale[image, index, v, u].float()
    distance = nearest_distance(found, batch["points"][image, :, v, u], instance, batch)
    count = at_least_one(shared_mean(len(instance), found))
    likelihood = distance * torch.exp(-log_scale) + 3 * log_scale
    return distance.sum() / count, likelihood.sum() / count


def nearest_distance(
    found: torch.Tensor, points: torch.Tensor, instance: torch.Tensor, batch
) -> torch.Tensor:
    """Return the distances (P,) of points ``found`` (P, 3) from the true ones (P, 3), by the representative
    that is nearest to all of an instance's points together."""
    maps, tied = batch["ties"], batch["tied"]  # (I, R, 3, 4), (I, R)
    most = int(tied.sum(1).max()) if len(tied) else 1
    wanted = torch.einsum("prij,pj->pri", maps[instance, :most, :, :3], points) + maps[instance, :most, :, 3]
    distance = (found.unsqueeze(1) - wanted).abs().sum(-1)
    total = distance.detach().new_zeros(len(tied), most).index_add_(0, instance, distance.detach())
    best = total.masked_fill(~tied[:, :most], torch.inf).argmin(1)
    return distance.gather(1, best[instance].unsqueeze(1)).squeeze(1)


def surface_losses(surface: Surface, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the named terms ``mask``, ``point`` and ``likelihood``."""
    point, likelihood = point_losses(surface, batch)
    return {"mask": mask_loss(surface.mask, batch), "point": point, "likelihood": likelihood}
