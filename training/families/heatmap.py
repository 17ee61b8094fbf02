# SPDX-License-Identifier: Apache-2.0
"""The heatmap family: a heatmap for each keypoint, from one branch or from several that teach each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..data.heatmap_targets import PointTargets
from ..losses.heatmap import empty_loss, gaussian_maps, map_loss, of_class
from ..losses.online import gradient_ratio, map_terms, online_terms
from ..models.heatmap import HeatmapConfig, HeatmapNetwork, Maps
from .base import Defaults, Supervision, TrainingData, check_classes, composed_crops, crops_of
from .keypoint import check_ensemble

if TYPE_CHECKING:
    from ..config import RunConfig


class Heatmap(Defaults):
    """See ``base.Family``."""

    name = "heatmap"
    cell_score = 0.1

    def check(self, run: RunConfig) -> None:
        check_ensemble(run)

    def make_network(self, config: HeatmapConfig) -> HeatmapNetwork:
        return HeatmapNetwork(config)

    def make_dataset(self, run: RunConfig, split: str, val: bool) -> TrainingData | None:
        if not split and not run.compose.views:
            return None
        objects = run.load_objects()
        check_classes(run, objects)
        targets = PointTargets(objects)
        if run.compose.views:
            return composed_crops(run, objects, targets, val)
        return crops_of(run, split, objects, targets)

    def loss_terms(
        self, outputs: Maps, batch: dict[str, torch.Tensor], network: HeatmapNetwork, how: Supervision
    ) -> dict[str, torch.Tensor]:
        visible, own, online = batch["visible"], batch["class_index"], how.online
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
        if ensemble is not None and online.teacher == "ensemble" and how.watch:
            scale = how.weights.heatmap, how.weights.online
            terms["online_ratio"] = gradient_ratio(final[0], ensemble, target, visible, online, scale)
        if how.distillation:
            maps = of_class(how.teacher_outputs, own)
            terms |= map_terms(maps, supervised, visible, how.distillation.config)
        return terms

    def teaching(self, outputs: Maps) -> torch.Tensor:
        """Return maps (B, C, K, h, w): the ensemble's, or those of the only branch."""
        return (outputs.final[0] if outputs.ensemble is None else outputs.ensemble).detach()

    def output_names(self, config: HeatmapConfig) -> list[str]:
        return ["heatmaps"]

    def deploy(self, outputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (outputs,)

    def describe_network(self, config: HeatmapConfig) -> str:
        """Describe the deployed branch, and say how many branches there are in training."""
        stacks = f"{config.shared + config.depths[0]} stacks, " if config.backbone == "hourglass" else ""
        count = len(config.depths)
        branches = f", {count} branches" if count > 1 else ""
        return f"{config.backbone}, {stacks}width {config.widths[0]}{branches}"
