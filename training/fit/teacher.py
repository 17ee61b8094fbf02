"""Teachers: a trained, measured run, frozen where it is made, or a run that is trained along; and what a
student learns from what a teacher says."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pose_kd_ros.bundle.manifest import surface_file
from pose_kd_ros.core.object_model import ObjectModel

from ..config import RunConfig, load_config
from ..data.surface import fingerprints
from ..losses.distill import (
    DistillConfig,
    adlp_loss,
    naive_vote_loss,
    score_loss,
    student_votes,
    teacher_votes,
)
from ..losses.features import FeatureDistillation
from ..losses.task import taught_votes
from ..models.heatmap import Maps
from ..models.network import BranchVotes, NetworkConfig, make_network, normalise
from ..models.surface import Surface
from . import checkpoint

Outputs = tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]] | Maps  # a network's, with features
Taught = (
    tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]] | torch.Tensor
)  # what ``teaching`` makes of them
EVALUATION = "evaluation.json"  # in the run's folder; written by export


def load_teacher(folder: Path) -> Teacher:
    """Return the frozen network of the run in ``folder``; raises ValueError naming the file if its settings
    or its checkpoint are missing."""
    settings = load_config(folder)
    last = Path(folder) / "last.ckpt"
    if not last.exists():
        raise ValueError(f"{last}: no checkpoint; train the teacher first")
    state = checkpoint.load(last)
    network = make_network(settings.network)
    network.load_state_dict(state.get("average", state["network"]))
    return Teacher(frozen(network), settings, state["step"], surfaces=state.get("surfaces", {}))


def surfaces_of(run: RunConfig) -> dict[int, str]:
    """Fingerprints of the surface codes that a dense run learns; none of the keypoint family."""
    if run.network.family != "dense":
        return {}
    return fingerprints(run.data / "models", run.load_objects())


def check_surfaces(where: Path, learnt: dict[int, str], run: RunConfig) -> None:
    """Raise ValueError if what lies at ``where`` has learnt other codes than ``run`` has now."""
    ours = surfaces_of(run)
    if differ := [i for i in sorted({*learnt, *ours}) if learnt.get(i) != ours.get(i)]:
        names = ", ".join(surface_file(i) for i in differ)
        raise ValueError(
            f"{where}: has learnt other surface codes than {run.data / 'models'} holds in {names}; "
            "bring back the files it was trained with"
        )


def check_teacher(teacher: Teacher, student: RunConfig) -> None:
    """Raise ValueError if a teacher from disk was not measured since it was trained, if it finds fewer
    objects than ``distill.floor``, and if it was trained on crops of another size or for other objects."""
    _refuse_unmeasured(Path(student.distill.teacher), teacher.step, student.distill.floor)
    check_like(teacher.run, student)
    check_surfaces(Path(student.distill.teacher), teacher.surfaces, student)


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
    metrics = content.get("metrics", {})
    found = metrics.get("found", metrics.get("AP", metrics.get("mean", 0.0) / 100))
    if found < floor:
        raise ValueError(
            f"{path}: the teacher finds {found:.3f} of the objects (of people: AP, or PCKh / 100); "
            f"distill.floor wants {floor}"
        )


def check_like(teacher: RunConfig, student: RunConfig) -> None:
    """Raise ValueError unless the teacher looks at the student's crops, with the student's cells, for the
    student's objects."""
    folder = student.distill.teacher
    if teacher.input_size != student.input_size:
        ours, theirs = (f"{width}x{height}" for width, height in (student.input_size, teacher.input_size))
        raise ValueError(
            f"{folder}: teacher of {theirs} px crops, the student's have {ours}; "
            "train one of them with the other's --crops.size"
        )
    families = teacher.network.family, student.network.family
    if families[0] != families[1]:
        raise ValueError(f"{folder}: teacher of the {families[0]} family, the student is {families[1]}")
    if families[0] == "keypoint" and teacher.network.levels < student.network.levels:
        found, wanted = teacher.network.levels, student.network.levels
        raise ValueError(f"{folder}: teacher with {found} levels, the student has {wanted}")
    kinds = [run.people.kind if run.people else "objects" for run in (teacher, student)]
    if kinds[0] != kinds[1]:
        raise ValueError(f"{folder}: teacher for {kinds[0]}, the student is for {kinds[1]}")
    ours, theirs = (run.load_objects() for run in (student, teacher))
    if not (len(ours) == len(theirs) and all(_same(a, b) for a, b in zip(ours, theirs))):
        raise ValueError(
            f"{folder}: teacher for the objects of {teacher.data / 'models'}, not those of "
            f"{student.data / 'models'}"
        )


def _same(a: ObjectModel, b: ObjectModel) -> bool:
    """Whether two objects have the same id, keypoints and symmetries."""
    return (
        a.id == b.id
        and a.keypoints.shape == b.keypoints.shape
        and np.allclose(a.keypoints, b.keypoints, atol=1e-6)
        and a.symmetries.shape == b.symmetries.shape
        and np.allclose(a.symmetries, b.symmetries, atol=1e-6)
    )


@dataclass(frozen=True)
class Teacher:
    """Images (B, 3, H, W) in [0, 1] -> what the network says of them: no gradients, BatchNorm at rest."""

    network: nn.Module
    run: RunConfig
    step: int = 0
    """It was trained to."""
    autocast: Callable[[], AbstractContextManager] = nullcontext
    surfaces: dict[int, str] = field(default_factory=dict)
    """Of the codes that a dense one has learnt, see ``surfaces_of``."""

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> Taught:
        learning = self.network.training
        self.network.eval()
        with self.autocast():
            outputs = self.network(normalise(images, self.network.config), with_features=True)
        self.network.train(learning)
        return teaching(outputs)


def teaching(outputs: Outputs) -> Taught:
    """What a network teaches of what it says, detached: its ensemble where it has one. Of the heatmap family
    maps (B, C, K, h, w); else logits, offsets or codes, and feature levels."""
    if isinstance(outputs, Maps):
        return (outputs.final[0] if outputs.ensemble is None else outputs.ensemble).detach()
    if isinstance(outputs[0], Surface):
        return Surface(*(part.detach() for part in outputs[0]))
    logits, offsets, levels = outputs[:3]
    if isinstance(outputs, BranchVotes) and outputs.ensemble_logits is not None:
        logits, offsets = outputs.ensemble_logits, outputs.ensemble_offsets
    return logits.detach(), offsets.detach(), [level.detach() for level in levels]


class Told(dict):
    """What the teachers, by the folder of their run, say of one batch's images: each is asked once, and only
    if a student listens."""

    def __init__(self, teachers: Mapping[Path, Teacher], images: torch.Tensor):
        super().__init__()
        self.teachers, self.images = teachers, images

    def __missing__(self, folder: Path) -> Taught:
        self[folder] = self.teachers[folder](self.images)
        return self[folder]


@dataclass(frozen=True)
class Distillation:
    """How a student learns from what its teacher says and, for FKD, what trains along."""

    config: DistillConfig
    features: nn.Module | None = None

    @classmethod
    def of(cls, config: DistillConfig, teacher: NetworkConfig, student: NetworkConfig) -> Distillation:
        """With new convolutions for FKD where they are wanted; ValueError where they would be of a dense
        or a heatmap network, whose features FKD does not compare."""
        if not config.wants_features:
            return cls(config)
        if student.family != "keypoint":
            raise ValueError(
                f"distill.method {config.method}: of the {student.family} family there are naive and adlp"
            )
        levels = min(student.levels, teacher.levels)
        return cls(config, FeatureDistillation(student.width, teacher.width, levels))

    def terms(
        self, student: Outputs, teacher: Taught, centers, batch, size: tuple[int, int]
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """Return the named terms of the method and, where it compares votes, the representative (I,) of each
        instance that the teacher means, -1 where it sees none.

        student, teacher: logits, offsets and feature levels for the same images. centers (N, 2) pixels; size:
        (height, width) of the images.
        """
        config = self.config
        (logits, offsets, levels), (teacher_logits, teacher_offsets, teacher_levels) = student, teacher
        terms = {}
        if self.features is not None:
            terms["kd_feature"] = self.features(levels, teacher_levels)
        if config.method == "fkd":
            return terms, None
        level = level_of_cells(levels)
        told, meant = teacher_votes(
            teacher_logits, teacher_offsets, centers, level, batch, config.teacher_score
        )
        if config.method == "naive":
            own, wanted = (taught_votes(o, centers, batch, drawn=True) for o in (offsets, teacher_offsets))
            terms["kd_vote"] = naive_vote_loss(own, wanted, size)
        else:
            votes = student_votes(logits, offsets, centers, batch)
            terms["kd_vote"], terms["kd_unsolved"] = adlp_loss(votes, told, size, config)
        if config.method == "naive" or config.mass == "normalised":
            terms["kd_score"] = score_loss(logits, teacher_logits, batch["vote_weight"].sum())
        return terms, torch.where(told.real.any(1), meant, -1)


def level_of_cells(levels: list[torch.Tensor]) -> torch.Tensor:
    """The level (N,) of each cell, on the device of the levels (B, width, h, w)."""
    return _level_of_cells(tuple(f.shape[2] * f.shape[3] for f in levels), levels[0].device)


@lru_cache(maxsize=8)
def _level_of_cells(cells: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """The level (N,) of each cell, from the levels' numbers of cells."""
    return torch.repeat_interleave(torch.arange(len(cells)), torch.tensor(cells)).to(device)
