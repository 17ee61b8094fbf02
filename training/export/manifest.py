# SPDX-License-Identifier: Apache-2.0
"""The records of a bundle's manifest: its input, its objects or people, and its training."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import torch

from pose_kd_ros.bundle.manifest import InputSpec, ObjectSpec, PeopleSpec, TrainingSpec
from pose_kd_ros.core.object_model import ObjectModel
from pose_kd_ros.datasets.bop import BopDataset, load_models_info
from pose_kd_ros.datasets.faults import Faults, OnFault
from pose_kd_ros.provenance import commit

from ..config import RunConfig
from ..data.people import MARGIN
from ..data.people_source import PeopleConfig
from ..families import family_of
from ..models.encoders import normalisation, pretrained_package

ORIGIN = "the mesh's origin"


def input_spec(config: RunConfig, search_size: int) -> InputSpec:
    """Return how the robot prepares images for a run's network."""
    width, height = config.input_size
    mean, std = map(list, normalisation(config.network))
    return InputSpec(
        size=height,
        search_size=search_size,
        stride=config.network.input_stride,
        margin=MARGIN if config.people else config.crops.margin,
        channels="rgb",
        mean=mean,
        std=std,
        aspect=width / height,
    )


def object_specs(config: RunConfig, names: dict[int, str]) -> list[ObjectSpec]:
    """Return the records of a run's objects. names: class names by object id."""
    infos = load_models_info(config.data / "models" / "models_info.json")
    return [_object_spec(model, infos[model.id]) for model in config.load_objects(names)]


def _object_spec(model: ObjectModel, info) -> ObjectSpec:
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
        ORIGIN,
    )


def people_spec(config: RunConfig) -> PeopleSpec | None:
    """Return the skeleton of a run on people; None for objects."""
    if not config.people:
        return None
    skeleton = config.people.skeleton
    pairs = ([list(pair) for pair in pairs] for pairs in (skeleton.links, skeleton.flip))
    return PeopleSpec(list(skeleton.keypoints), *pairs)


def how_taught(config: RunConfig) -> str:
    """Return the method in words: distillation from a teacher, or branches that teach each other."""
    online = config.online
    if online.teacher == "none":
        return config.distill.method
    aggregation = getattr(config.network, "aggregation", "none")
    by = f"ensemble ({aggregation})" if online.teacher == "ensemble" else "peers"
    return f"online, {by}, {'released form' if online.released else online.align}"


def describe_objects(config: RunConfig, object_runs: tuple[RunConfig, ...] = ()) -> str:
    """Describe what a run for objects has learnt from: its data, its first weights, and the runs for single
    objects."""
    parts = [
        describe_data(config.data / config.split, config.faults),
        *family_of(config).describe_data(config),
    ]
    if config.init:
        parts.append(f"started from the run {config.init.parent.name} ({config.init_part})")
    elif package := pretrained_package(config.network):
        parts.append(f"started from ImageNet weights ({package})")
    if object_runs:
        crops = ", ".join(f"{run.name} {run.steps * run.batch_size}" for run in object_runs)
        parts.append(f"networks of single objects, and the crops they learnt from: {crops}")
    return ", ".join(parts)


def describe_people(people: PeopleConfig, on_fault: OnFault) -> str:
    """Describe the people that a run learns from."""
    return f"{people.kind}: {len(people.load(False, Faults(on_fault)).persons)} people"


def describe_data(split: Path, on_fault: OnFault = "refuse") -> str:
    """Describe a data set: its name, images and, for renders, seed and sources."""
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
    """Return the record of the network's training; its figures are measured later."""
    people = config.people
    return TrainingSpec(
        data=describe_people(people, config.faults) if people else describe_objects(config, object_runs),
        recipe=config.name,
        method=how_taught(config),
        steps=step,
        seed=config.seed,
        commit=commit(),
        date=datetime.date.today().isoformat(),
        torch=torch.__version__,
        metrics={},
    )
