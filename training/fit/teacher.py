# SPDX-License-Identifier: Apache-2.0
"""Teachers: trained and measured runs, frozen where they are loaded."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pose_kd_ros.bundle.manifest import surface_file
from pose_kd_ros.core.object_model import ObjectModel

from ..config import RunConfig, load_config
from ..families import FAMILIES, family_of, make_network
from ..models.base import AnyModule, Network
from ..models.encoders import normalise
from . import checkpoint

EVALUATION = "evaluation.json"  # in the run's folder; written by export


@dataclass(frozen=True)
class Teacher:
    """A frozen network: images (B, 3, H, W) in [0, 1] -> what students learn from, without gradients."""

    network: Network
    run: RunConfig
    step: int = 0
    """Number of steps for which it was trained."""
    autocast: Callable[[], AbstractContextManager] = nullcontext
    fingerprints: dict[int, str] = field(default_factory=dict)
    """Hashes, by object id, of the surface codes that a dense teacher has learnt."""

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> Any:
        with self.autocast():
            outputs = self.network(normalise(images, self.network.config), with_features=True)
        return FAMILIES[self.network.config.family].teaching(outputs)


class TeacherOutputs(dict):
    """The teachers' outputs for one batch's images, by the folder of the teacher's run.

    Each teacher runs once, when the first of its students needs it.
    """

    def __init__(self, teachers: Mapping[Path, Teacher], images: torch.Tensor):
        super().__init__()
        self.teachers, self.images = teachers, images

    def __missing__(self, folder: Path) -> Any:
        self[folder] = self.teachers[folder](self.images)
        return self[folder]


def load_teacher(folder: Path) -> Teacher:
    """Return the frozen network of the run in ``folder``.

    Raises ValueError, naming the file, if its settings or its checkpoint are missing.
    """
    run, last = load_config(folder), Path(folder) / "last.ckpt"
    if not last.exists():
        raise ValueError(f"{last}: wanted a checkpoint, found none; train the teacher first")
    state = checkpoint.load(last)
    network = make_network(run.network)
    network.load_state_dict(checkpoint.trained_weights(state))
    return Teacher(frozen(network), run, state["step"], fingerprints=state.get("surfaces", {}))


def frozen(network: AnyModule) -> AnyModule:
    """Put the network into evaluation mode without gradients: neither weights nor BatchNorm change."""
    return network.eval().requires_grad_(False)


def check_teacher(teacher: Teacher, student: RunConfig) -> None:
    """Raise ValueError if the teacher was not measured after its training, if it finds fewer objects than
    ``distill.floor``, or if it was trained on crops of another size or for other objects."""
    assert student.distill.teacher is not None  # ``DistillConfig`` asks for it
    folder = Path(student.distill.teacher)
    _check_measured(folder, teacher.step, student.distill.floor)
    _check_alike(teacher.run, student)
    check_fingerprints(folder, teacher.fingerprints, student)


def check_fingerprints(where: Path, learnt: dict[int, str], run: RunConfig) -> None:
    """Raise ValueError if the run at ``where`` has learnt other surface codes than ``run`` has now."""
    ours = family_of(run).fingerprints(run)
    if differ := [i for i in sorted({*learnt, *ours}) if learnt.get(i) != ours.get(i)]:
        names = ", ".join(surface_file(i) for i in differ)
        raise ValueError(
            f"{where}: wanted the surface codes that it has learnt, found others in {run.data / 'models'} "
            f"({names}); restore the files it was trained with"
        )


def _check_measured(folder: Path, step: int, floor: float) -> None:
    path = folder / EVALUATION
    how = f"measure it: python -m training export {folder} --out BUNDLE"
    if not path.exists():
        raise ValueError(f"{path}: wanted a teacher that has been measured, found no such file; {how}")
    content = json.loads(path.read_text(encoding="utf-8"))
    if content.get("step") != step:
        raise ValueError(
            f"{path}: wanted figures of step {step}, found those of step {content.get('step')}; {how}"
        )
    metrics = content.get("metrics", {})
    found = metrics.get("found", metrics.get("AP", metrics.get("mean", 0.0) / 100))
    if found < floor:
        raise ValueError(
            f"{path}: wanted a teacher that finds {floor} of the objects (distill.floor; people: AP or "
            f"PCKh / 100), found {found:.3f}"
        )


def _check_alike(teacher: RunConfig, student: RunConfig) -> None:
    """Raise ValueError unless teacher and student have the same crops, family and objects, and fitting
    networks."""
    folder = student.distill.teacher
    pairs: dict[str, list[str]] = {
        "crops": [f"{'x'.join(map(str, run.input_size))} px" for run in (student, teacher)],
        "the family": [run.network.family for run in (student, teacher)],
        "a teacher for": [run.people.kind if run.people else "objects" for run in (student, teacher)],
    }
    for what, (wanted, found) in pairs.items():
        if wanted != found:
            raise ValueError(f"{folder}: wanted {what} {wanted}, as the student, found {found}")
    try:
        family_of(student).check_teacher(teacher.network, student.network)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    ours, theirs = (run.load_objects() for run in (student, teacher))
    if not (len(ours) == len(theirs) and all(_same(a, b) for a, b in zip(ours, theirs))):
        raise ValueError(
            f"{folder}: wanted a teacher for the objects of {student.data / 'models'}, "
            f"found one for those of {teacher.data / 'models'}"
        )


def _same(a: ObjectModel, b: ObjectModel) -> bool:
    """Return whether two objects have the same id, keypoints and symmetries."""
    pairs = (a.keypoints, b.keypoints), (a.symmetries, b.symmetries)
    return a.id == b.id and all(x.shape == y.shape and np.allclose(x, y, atol=1e-6) for x, y in pairs)
