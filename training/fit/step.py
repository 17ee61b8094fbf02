"""One training step's forward half: prepared images, and the named losses of a network's outputs for them."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import nn

from pose_kd_ros.core.cells import cell_grid

from ..config import LossWeights
from ..losses.dense import dense_losses, meant_maps, remember
from ..losses.distill_dense import code_terms
from ..losses.heatmap import empty_loss, gaussian_maps, map_loss, of_class
from ..losses.online import OnlineConfig, gradient_ratio, map_terms, online_terms
from ..losses.online_votes import branch_vote_terms
from ..losses.surface import surface_losses
from ..losses.task import keypoint_losses
from ..models.heatmap import Maps
from ..models.network import BranchVotes
from .teacher import Distillation, Outputs, Taught, level_of_cells

ALONE = OnlineConfig()


@torch.no_grad()
def prepare(
    batch: dict[str, torch.Tensor], augment: Callable[[torch.Tensor], torch.Tensor] | None = None
) -> torch.Tensor:
    """A batch's pictures (B, 3, H, W) uint8 in [0, 1], augmented: each network that learns
    from the batch normalises them for itself."""
    images = batch["image"].float() / 255
    return augment(images) if augment else images


@lru_cache(maxsize=8)
def _centers(height: int, width: int, strides: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Cells' centres (N, 2), pixels, kept on the device: copying them in every step would wait for it."""
    return torch.tensor(cell_grid(height, width, strides)[0], dtype=torch.float32, device=device)


def keypoint_terms(
    outputs, batch, network, weights, distillation, told, online, _watch
) -> dict[str, torch.Tensor]:
    size = tuple(batch["image"].shape[-2:])
    centers = _centers(*size, network.config.strides, batch["image"].device)
    if isinstance(outputs, BranchVotes):
        levels = level_of_cells(outputs.levels)
        return branch_vote_terms(outputs, centers, levels, batch, size, weights, online)
    plain, log_scale = outputs[:3], outputs[3] if network.config.scale else None
    taught, choice = distillation.terms(plain, told, centers, batch, size) if distillation else ({}, None)
    return keypoint_losses(*outputs[:2], centers, batch, choice, log_scale) | taught


def dense_terms(
    outputs, batch, network, weights, distillation, told, online, _watch
) -> dict[str, torch.Tensor]:
    taught, choice = {}, None
    if distillation:
        choice = meant_maps(told[1], batch, network.bit_error)
        taught = code_terms(outputs, told, batch, distillation.config)
    terms, wrong = dense_losses(*outputs[:2], batch, network.bit_error, choice)
    if torch.is_grad_enabled():
        remember(network.bit_error, wrong)
    return terms | taught


def heatmap_terms(outputs: Maps, batch, network, weights, distillation, told, online, watch):
    visible, own = batch["visible"], batch["class_index"]
    final = of_class(outputs.final, own)
    supervised = final
    if outputs.intermediate:
        supervised = torch.cat([final, of_class(torch.stack(outputs.intermediate), own)])
    target = gaussian_maps(batch["points"], final.shape[-2:], network.config.strides[0])
    terms = {"heatmap": map_loss(supervised, target, visible)}
    if "absent" in batch:
        every = [outputs.final, *(maps.unsqueeze(0) for maps in outputs.intermediate)]
        terms["absent"] = empty_loss(torch.cat(every), batch["absent"])
    ensemble = None if outputs.ensemble is None else of_class(outputs.ensemble, own)
    if ensemble is not None:
        terms["ensemble"] = map_loss(ensemble, target, visible)
    terms |= online_terms(final, supervised, ensemble, visible, online)
    if online.teacher == "ensemble" and watch:
        scale = weights.heatmap, weights.online
        terms["online_ratio"] = gradient_ratio(final[0], ensemble, target, visible, online, scale)
    if distillation:
        terms |= map_terms(of_class(told, own), supervised, visible, distillation.config)
    return terms


def surface_terms(
    outputs, batch, network, weights, distillation, told, online, _watch
) -> dict[str, torch.Tensor]:
    return surface_losses(outputs[0], batch)


def losses(
    outputs: Outputs,
    batch: dict[str, torch.Tensor],
    network: nn.Module,
    weights: LossWeights,
    distillation: Distillation | None = None,
    told: Taught | None = None,
    online: OnlineConfig = ALONE,
    watch: bool = False,
) -> dict[str, torch.Tensor]:
    """Return the named loss terms of a network's outputs for a batch (see ``data.targets``) and the weighted
    sum, ``total``, of those that have a weight.

    told: what the teacher says of the same images, for ``distillation``. online: what branches learn from
    each other. watch: add what is only looked at, and takes time. With gradients on, the running errors of a
    dense network's bits move.
    """
    families = {"keypoint": keypoint_terms, "dense": dense_terms, "heatmap": heatmap_terms}
    families["surface"] = surface_terms
    of_family = families[network.config.family]
    terms = of_family(outputs, batch, network, weights, distillation, told, online, watch)
    weighted = {name: getattr(weights, name) for name in terms if hasattr(weights, name)}
    terms["total"] = sum(weight * terms[name] for name, weight in weighted.items())
    return terms
