# SPDX-License-Identifier: Apache-2.0
"""The keypoint family: every cell votes for the keypoints of the object that it sees."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from pose_kd_ros.core.cells import cell_grid

from ..data.compose import ComposedDataset
from ..data.crops import CropDataset
from ..data.targets import VoteTargets
from ..losses.distill import (
    DistillConfig,
    adlp_loss,
    naive_vote_loss,
    score_loss,
    student_votes,
    teacher_votes,
)
from ..losses.features import FeatureDistillation
from ..losses.online_votes import branch_vote_terms
from ..losses.task import keypoint_losses, taught_votes
from ..models.heatmap import HeatmapConfig
from ..models.keypoint import BranchVotes, KeypointNetwork, NetworkConfig
from .base import (
    Defaults,
    Distillation,
    Supervision,
    check_classes,
    check_no_kl,
    composed_crops,
    crops_of,
)

if TYPE_CHECKING:
    from ..config import RunConfig

VoteOutputs = tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]  # logits, offsets, pyramid levels


class Keypoint(Defaults):
    """See ``base.Family``."""

    name = "keypoint"
    searches = votes_scale = True
    cell_score = 0.3

    def check(self, run: RunConfig) -> None:
        check_no_kl(run)
        network, online = run.network, run.online
        assert isinstance(network, NetworkConfig)  # ``family_of`` chooses by it
        if network.branches > 1 and network.aggregation == "none":
            raise ValueError("network.aggregation: wanted one for branches of votes, found none")
        if network.branches > 1 and run.distill.method != "none":
            raise ValueError(
                "distill.method: wanted none for branches of votes, which their ensemble teaches; "
                f"found {run.distill.method}"
            )
        if online.teacher == "none":
            return
        check_ensemble(run)
        if (online.teacher, online.align) != ("ensemble", "transport"):
            raise ValueError(
                "online: wanted teacher ensemble and align transport for votes, "
                f"found {online.teacher} and {online.align}"
            )

    def make_network(self, config: NetworkConfig) -> KeypointNetwork:
        return KeypointNetwork(config)

    def make_dataset(self, run: RunConfig, split: str, val: bool) -> CropDataset | ComposedDataset | None:
        if not split and not run.compose.views:
            return None
        objects = run.load_objects()
        check_classes(run, objects)
        targets = VoteTargets(objects, run.network.strides, run.crops.cells)
        if run.compose.views:
            return composed_crops(run, objects, targets, val)
        return crops_of(run, split, objects, targets)

    def loss_terms(
        self, outputs, batch: dict[str, torch.Tensor], network: KeypointNetwork, how: Supervision
    ) -> dict[str, torch.Tensor]:
        height, width = size = batch["image"].shape[-2:]
        centers = cell_centers(height, width, network.config.strides, batch["image"].device)
        if isinstance(outputs, BranchVotes):
            levels = level_of_cells(outputs.levels)
            return branch_vote_terms(outputs, centers, levels, batch, size, how.weights, how.online)
        plain, log_scale = outputs[:3], outputs[3] if network.config.scale else None
        terms: dict[str, torch.Tensor] = {}
        choice = None
        if how.distillation:
            terms, choice = distilled_terms(
                how.distillation, plain, how.teacher_outputs, centers, batch, size
            )
        logits, offsets = outputs[:2]
        return keypoint_losses(logits, offsets, centers, batch, choice, log_scale) | terms

    def teaching(self, outputs) -> VoteOutputs:
        logits, offsets, levels = outputs[:3]
        if isinstance(outputs, BranchVotes) and outputs.ensemble_logits is not None:
            logits, offsets = outputs.ensemble_logits, outputs.ensemble_offsets
        return super().teaching((logits, offsets, levels))

    def feature_layers(
        self, distill: DistillConfig, teacher: NetworkConfig, student: NetworkConfig
    ) -> FeatureDistillation | None:
        if not distill.wants_features:
            return None
        return FeatureDistillation(student.width, teacher.width, min(student.levels, teacher.levels))

    def check_teacher(self, teacher: NetworkConfig, student: NetworkConfig) -> None:
        if teacher.levels < student.levels:
            raise ValueError(
                f"wanted {student.levels} levels or more, as the student, found {teacher.levels}"
            )

    def output_names(self, config: NetworkConfig) -> list[str]:
        return ["scores", "offsets"] + (["scales"] if config.scale else [])

    def deploy(self, outputs) -> tuple[torch.Tensor, ...]:
        logits, offsets, *log_scale = outputs
        return logits.sigmoid(), offsets, *(each.exp() for each in log_scale)

    def describe_network(self, config: NetworkConfig) -> str:
        return f"{super().describe_network(config)}, depth {config.depth}"


def check_ensemble(run: RunConfig) -> None:
    """Raise ValueError if an ensemble is to teach and no aggregation makes one."""
    assert isinstance(run.network, NetworkConfig | HeatmapConfig)  # ``family_of`` chooses by it
    if run.online.teacher == "ensemble" and run.network.aggregation == "none":
        raise ValueError("network.aggregation: wanted one for online.teacher ensemble, found none")


def distilled_terms(
    distillation: Distillation,
    student: VoteOutputs,
    teacher: VoteOutputs,
    centers: torch.Tensor,
    batch: dict,
    size: tuple[int, ...],
) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
    """Return the named terms of the method and, where it compares votes, the symmetry representative (I,) of
    each instance that the teacher's votes are nearest to; -1 where the teacher does not see the instance.

    student, teacher: outputs for the same images. centers (N, 2) pixels; size: (height, width) of the images.
    """
    config = distillation.config
    (logits, offsets, levels), (teacher_logits, teacher_offsets, teacher_levels) = student, teacher
    terms: dict[str, torch.Tensor] = {}
    if distillation.features is not None:
        terms["kd_feature"] = distillation.features(levels, teacher_levels)
    if config.method == "fkd":
        return terms, None
    cell_level = level_of_cells(levels)
    votes, meant = teacher_votes(
        teacher_logits, teacher_offsets, centers, cell_level, batch, config.teacher_score
    )
    if config.method == "naive":
        own, wanted = (taught_votes(o, centers, batch, drawn=True) for o in (offsets, teacher_offsets))
        terms["kd_vote"] = naive_vote_loss(own, wanted, size)
    else:
        drawn = student_votes(logits, offsets, centers, batch)
        terms["kd_vote"], terms["kd_unsolved"] = adlp_loss(drawn, votes, size, config)
    if config.method == "naive" or config.mass == "normalised":
        terms["kd_score"] = score_loss(logits, teacher_logits, batch["vote_weight"].sum())
    return terms, torch.where(votes.real.any(1), meant, -1)


@lru_cache(maxsize=8)
def cell_centers(height: int, width: int, strides: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Return the cells' centres (N, 2), pixels, cached on the device: a copy in every step would wait for
    it."""
    return torch.tensor(cell_grid(height, width, strides)[0], dtype=torch.float32, device=device)


def level_of_cells(levels: list[torch.Tensor]) -> torch.Tensor:
    """Return the level (N,) of each cell, on the device of the levels (B, width, h, w)."""
    return _level_of_cells(tuple(f.shape[2] * f.shape[3] for f in levels), levels[0].device)


@lru_cache(maxsize=8)
def _level_of_cells(cells: tuple[int, ...], device: torch.device) -> torch.Tensor:
    return torch.repeat_interleave(torch.arange(len(cells)), torch.tensor(cells)).to(device)
