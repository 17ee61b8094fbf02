"""The teacher of a distillation: a trained, measured run, frozen where it is made."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pose_kd_ros.core.object_model import ObjectModel

from . import checkpoint
from .config import RunConfig, load_config
from .data.objects import load_objects
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


def load_teacher(run: RunConfig) -> tuple[KeypointNetwork, int]:
    """Return the frozen network of the run's teacher, and the step it was trained to.

    Raises ValueError naming the file if the teacher's run or checkpoint is missing, if it was not measured
    since it was trained, if it finds fewer objects than ``distill.floor``, and if it was trained on crops of
    another size or for other objects.
    """
    folder = Path(run.distill.teacher)
    settings = load_config(folder)
    if not (folder / "last.ckpt").exists():
        raise ValueError(f"{folder / 'last.ckpt'}: no checkpoint; train the teacher first")
    state = checkpoint.load(folder / "last.ckpt")
    _refuse_unmeasured(folder, state["step"], run.distill.floor)
    _refuse_unlike(folder, settings, run)
    network = KeypointNetwork(settings.network)
    network.load_state_dict(state["network"])
    return frozen(network), state["step"]


def frozen(network: nn.Module) -> nn.Module:
    """The network in evaluation mode and without gradients, so that neither weights nor BatchNorm move."""
    return network.eval().requires_grad_(False)


def _refuse_unmeasured(folder: Path, step: int, floor: float) -> None:
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


def _refuse_unlike(folder: Path, teacher: RunConfig, student: RunConfig) -> None:
    """A teacher looks at the student's crops, with the student's cells, for the student's objects."""
    if teacher.crops.size != student.crops.size:
        raise ValueError(
            f"{folder}: teacher of {teacher.crops.size} px crops, the student's have {student.crops.size}; "
            "train one of them with the other's --crops.size"
        )
    if teacher.network.levels < student.network.levels:
        found, wanted = teacher.network.levels, student.network.levels
        raise ValueError(f"{folder}: teacher with {found} levels, the student has {wanted}")
    ours, theirs = (load_objects(run.data, only=run.objects) for run in (student, teacher))
    if not (len(ours) == len(theirs) and all(_same(a, b) for a, b in zip(ours, theirs))):
        raise ValueError(
            f"{folder}: teacher for the objects of {teacher.data / 'models'}, not those of "
            f"{student.data / 'models'}"
        )


def _same(a: ObjectModel, b: ObjectModel) -> bool:
    """Whether two objects have the same id, keypoints and symmetries."""
    return (
        a.id == b.id
        and np.allclose(a.keypoints, b.keypoints, atol=1e-6)
        and a.symmetries.shape == b.symmetries.shape
        and np.allclose(a.symmetries, b.symmetries, atol=1e-6)
    )


@dataclass(frozen=True)
class Distillation:
    """What a step needs beside the student: the frozen teacher and, for FKD, what trains along."""

    config: DistillConfig
    teacher: KeypointNetwork
    features: nn.Module | None
    teacher_step: int = 0
    autocast: Callable[[], AbstractContextManager] = nullcontext

    @classmethod
    def make(cls, run: RunConfig) -> Distillation | None:
        """None for the method none; raises ValueError for a teacher that will not do."""
        if run.distill.method == "none":
            return None
        teacher, step = load_teacher(run)
        return replace(cls.of(run.distill, teacher, run.network), teacher_step=step)

    @classmethod
    def of(cls, config: DistillConfig, teacher: KeypointNetwork, student: NetworkConfig) -> Distillation:
        """With a network as teacher, which is frozen, and new convolutions for FKD where they are wanted."""
        features = None
        if config.wants_features:
            levels = min(student.levels, teacher.config.levels)
            features = FeatureDistillation(student.width, teacher.config.width, levels)
        return cls(config, frozen(teacher), features)

    def terms(self, images, student, centers, batch) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """Return the named terms of the method and, where it compares votes, the representative (I,) of each
        instance that the teacher means, -1 where it sees none.

        images: as the student saw them. student: its logits, offsets and feature levels. centers (N, 2).
        """
        config, size = self.config, tuple(images.shape[-2:])
        logits, offsets, levels = student
        with torch.no_grad(), self.autocast():
            teacher_logits, teacher_offsets, teacher_levels = self.teacher(images, with_features=True)
        terms = {}
        if self.features is not None:
            terms["kd_feature"] = self.features(levels, teacher_levels)
        if config.method == "fkd":
            return terms, None
        level = torch.repeat_interleave(
            torch.arange(len(levels), device=images.device),
            torch.tensor([f.shape[2] * f.shape[3] for f in levels], device=images.device),
        )
        told, meant = teacher_votes(
            teacher_logits, teacher_offsets, centers, level, batch, config.teacher_score
        )
        if config.method == "naive":
            own, wanted = (drawn_votes(o, centers, batch) for o in (offsets, teacher_offsets))
            terms["kd_vote"] = naive_vote_loss(own, wanted, size)
        else:
            votes = student_votes(logits, offsets, centers, batch)
            terms["kd_vote"], terms["kd_unsolved"] = adlp_loss(votes, told, size, config)
        if config.method == "naive" or config.mass == "normalised":
            terms["kd_score"] = score_loss(logits, teacher_logits, len(batch["vote_cell"]))
        return terms, torch.where(told.real.any(1), meant, -1)
