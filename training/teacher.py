"""The teacher of a distillation: a trained, measured run, frozen where it is made."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from . import checkpoint
from .config import load_config
from .losses.distill import (
    DistillConfig,
    adlp_loss,
    naive_vote_loss,
    score_loss,
    student_votes,
    teacher_votes,
)
from .losses.features import FeatureDistillation
from .losses.task import drawn_votes
from .models.network import KeypointNetwork, NetworkConfig

EVALUATION = "evaluation.json"  # in the run's folder; written by export


def load_teacher(config: DistillConfig, student: NetworkConfig) -> KeypointNetwork:
    """Return the teacher's network in evaluation mode, without gradients.

    Raises ValueError naming the file if the run or its checkpoint is missing, if it was not measured since it
    was trained, if it finds fewer objects than ``config.floor``, or if it is a network for other objects.
    """
    folder = Path(config.teacher)
    settings = load_config(folder)
    if not (folder / "last.ckpt").exists():
        raise ValueError(f"{folder / 'last.ckpt'}: no checkpoint; train the teacher first")
    state = checkpoint.load(folder / "last.ckpt")
    _refuse_unfit(folder, state["step"], config.floor)
    for name in ("classes", "keypoints"):
        wanted, found = getattr(student, name), getattr(settings.network, name)
        if wanted != found:
            raise ValueError(f"{folder}: teacher with {found} {name}, the student has {wanted}")
    network = KeypointNetwork(settings.network)
    network.load_state_dict(state["network"])
    return frozen(network)


def frozen(network: nn.Module) -> nn.Module:
    """The network in evaluation mode and without gradients, so that neither weights nor BatchNorm move."""
    return network.eval().requires_grad_(False)


def _refuse_unfit(folder: Path, step: int, floor: float) -> None:
    path = folder / EVALUATION
    how = f"measure it: python -m training export {folder} --out BUNDLE"
    if not path.exists():
        raise ValueError(f"{path}: missing; a teacher must have been measured; {how}")
    content = json.loads(path.read_text(encoding="utf-8"))
    if content.get("step") != step:
        raise ValueError(f"{path}: measured at step {content.get('step')}, but trained to {step}; {how}")
    found = content.get("metrics", {}).get("found", 0.0)
    if found < floor:
        raise ValueError(f"{path}: the teacher finds {found:.3f} of the objects; distill.floor wants {floor}")


@dataclass(frozen=True)
class Distillation:
    """What a step needs beside the student: the frozen teacher and, for FKD, what trains along."""

    config: DistillConfig
    teacher: KeypointNetwork
    features: nn.Module | None
    autocast: Callable[[], AbstractContextManager] = nullcontext

    @classmethod
    def make(cls, config: DistillConfig, student: NetworkConfig) -> Distillation | None:
        """None for the method none; raises ValueError for a teacher that will not do."""
        return None if config.method == "none" else cls.of(config, load_teacher(config, student), student)

    @classmethod
    def of(cls, config: DistillConfig, teacher: KeypointNetwork, student: NetworkConfig) -> Distillation:
        """With a network as teacher, which is frozen, and new convolutions for FKD where they are wanted."""
        features = None
        if config.wants_features:
            levels = min(student.levels, teacher.config.levels)
            features = FeatureDistillation(student.width, teacher.config.width, levels)
        return cls(config, frozen(teacher), features)

    def terms(self, images, student, centers, batch) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Return the named terms of the method, and the representative (I,) of each instance that the teacher
        means, -1 where it sees none.

        images: as the student saw them. student: its logits, offsets and feature levels. centers (N, 2).
        """
        config, size = self.config, tuple(images.shape[-2:])
        logits, offsets, levels = student
        with torch.no_grad(), self.autocast():
            teacher_logits, teacher_offsets, teacher_levels = self.teacher(images, with_features=True)
        level = torch.repeat_interleave(
            torch.arange(len(levels), device=images.device),
            torch.tensor([f.shape[2] * f.shape[3] for f in levels], device=images.device),
        )
        told, meant = teacher_votes(
            teacher_logits, teacher_offsets, centers, level, batch, config.teacher_score
        )
        terms = {}
        if self.features is not None:
            terms["kd_feature"] = self.features(levels, teacher_levels)
        if config.method == "naive":
            own, wanted = (drawn_votes(o, centers, batch) for o in (offsets, teacher_offsets))
            terms["kd_vote"] = naive_vote_loss(own, wanted, size)
        if config.method in ("adlp", "adlp+fkd"):
            votes = student_votes(logits, offsets, centers, batch)
            terms["kd_vote"], terms["kd_unsolved"] = adlp_loss(votes, told, size, config)
        if config.method != "fkd" and config.mass == "normalised":
            terms["kd_score"] = score_loss(logits, teacher_logits, len(batch["vote_cell"]))
        return terms, torch.where(told.real.any(1), meant, -1) if told.real.shape[1] else meant * 0 - 1
