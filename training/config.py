# SPDX-License-Identifier: Apache-2.0
"""The settings of a training run: data, network, crops, augmentation, losses, optimisation."""

from __future__ import annotations

import dataclasses
import json
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from pose_kd_ros.core.object_model import ObjectModel

from . import families
from .data.augment import AugmentConfig
from .data.compose import ComposeConfig
from .data.crops import CropConfig
from .data.objects import Keypoints, load_objects
from .data.people_crops import input_size
from .data.people_source import PeopleConfig
from .losses.distill import DistillConfig
from .losses.online import OnlineConfig
from .models.dense import DenseConfig
from .models.heatmap import HeatmapConfig
from .models.keypoint import NetworkConfig
from .models.surface import SurfaceConfig


@dataclass(frozen=True)
class LossWeights:
    """Weight of each named loss term; the terms themselves are means."""

    score: float = 1.0
    vote: float = 10.0
    mask: float = 1.0
    code: float = 3.0
    """Dense family, as in ZebraPose: 3 x cross-entropy of the code's bits, 1 x L1 of the mask."""
    kd_vote: float = 50.0
    """A teacher's votes: in squared crop sizes for adlp, in crop sizes for naive (not tuned yet)."""
    kd_score: float = 1.0
    kd_feature: float = 1.0
    kd_code: float = 1.0
    """A dense teacher's codes (not tuned yet)."""
    kd_mask: float = 1.0
    point: float = 1.0
    """Surface family: distance of the points from the true ones, in radii."""
    likelihood: float = 0.1
    """Negative log-likelihood, under predicted scales: of points (surface family), or of votes (keypoint
    family with network.scale)."""
    heatmap: float = 1.0
    """Heatmap family: squared error of every supervised map."""
    kd_map: float = 1.0
    """A heatmap teacher's maps. As for ``online``, kl has far larger gradients than the others and needs
    0.05."""
    ensemble: float = 1.0
    """Several branches: the task's loss of their ensemble, as in OKDHP."""
    online: float = 0.05
    """Several branches: what their maps learn from their teacher. With 0.05 the gradient of the KL at
    temperature 0.1 is about as large as that of the truth (online_ratio near 1); other alignments and the
    released form need 2, as in OKDHP."""
    absent: float = 1.0
    """Heatmap family: the maps of classes that are not in the crop and should be empty."""
    online_vote: float = 50.0
    """Several branches: what their votes learn from the ensemble's, in squared crop sizes."""
    online_score: float = 1.0
    """Several branches: what their cells' scores learn from the ensemble's."""

    def scaled(self, share: float, online: float = 1.0) -> LossWeights:
        """Return the weights with those of the teacher's terms times ``share``, and those of the terms by
        which branches learn from each other times ``online``."""
        names = [f.name for f in dataclasses.fields(self) if f.name.startswith("kd_")]
        scaled = {name: share * getattr(self, name) for name in names}
        branches = ("online", "online_vote", "online_score")
        scaled |= {name: online * getattr(self, name) for name in branches}
        return dataclasses.replace(self, **scaled)


@dataclass(frozen=True)
class RunConfig:
    """All that decides the result of a training run, and where the run is stored."""

    name: str
    """Name of the run and of its folder in --runs."""
    data: Path = Path("data/cube")
    """BOP data set: models/ and the split folders."""
    split: str = "train"
    """Split to train on."""
    val_split: str = "val"
    """Split to validate losses on, and to choose pose_score on at export; not trained on. "" for none."""
    objects: tuple[int, ...] = ()
    """Ids of the data set's objects to train on; none given: all."""
    faults: Literal["refuse", "skip"] = "refuse"
    """What to do with a missing or damaged picture, mask or json field: stop and name it, or skip and
    count the image."""
    runs: Path = Path("runs")
    """Folder of all runs."""
    keypoints: Keypoints = "corners"
    """Keypoints of an object: the corners of its box, these and its centre, or network.keypoints points of
    the mesh that are far from each other."""
    network: tyro.conf.AvoidSubcommands[NetworkConfig | DenseConfig | HeatmapConfig | SurfaceConfig] = field(
        default_factory=NetworkConfig
    )
    crops: CropConfig = field(default_factory=CropConfig)
    people: tyro.conf.AvoidSubcommands[PeopleConfig | None] = None
    """Learn people's joints from these files instead of objects from --data."""
    compose: ComposeConfig = field(default_factory=ComposeConfig)
    """Surface family: what surrounds the object views in composed crops."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    weights: LossWeights = field(default_factory=LossWeights)
    distill: DistillConfig = field(default_factory=DistillConfig)
    online: OnlineConfig = field(default_factory=OnlineConfig)
    init: Path | None = None
    """Checkpoint (last.ckpt) of another run with the same network, whose weights this one starts from."""
    init_part: Literal["all", "backbone", "trunk"] = "all"
    """Part of --init to take: all; the backbone; or all but the last layer, which depends on the objects."""
    tile_px: int = 0
    """Cut the data set into tiles with this side, pixels, and keep them in memory: one or two for each image,
    of 0.26 MB at 256. 0: read the image files for each crop."""
    cache: Path | None = None
    """Folder to keep tiles in instead of memory; all runs and processes with the same data share
    it. Needs tile_px."""
    steps: int = 10_000
    """Optimiser steps."""
    batch_size: int = 16
    """Crops per step, over all processes."""
    lr: float = 1e-3
    """Peak learning rate of the schedule."""
    encoder_lr: float = 1.0
    """Learning rate of the backbone over that of the rest; a pretrained backbone needs less than 1."""
    average: float = 0.0
    """Decay of a moving average of the weights, which is then exported; 0: no average."""
    weight_decay: float = 1e-4
    warmup: float = 0.05
    """Share of the steps in which the learning rate rises."""
    schedule: Literal["cosine", "milestones"] = "cosine"
    """After the rise: a cosine fall to zero, or a tenth from 0.6 of the steps on and a hundredth from
    0.8 (OKDHP's recipe)."""
    clip: float = 1.0
    """Largest gradient norm."""
    seed: int = 0
    precision: Literal["32-true", "bf16-mixed"] = "bf16-mixed"
    """bf16-mixed runs on CPUs with AVX512-BF16 and on GPUs; losses are always fp32."""
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = 1
    """Devices (or CPU processes) on each node; under torchrun and SLURM as many as a node has processes."""
    num_nodes: int = 1
    """Machines that share each batch; torchrun or SLURM starts the same command on each."""
    threads: int = 1
    """CPU threads of torch; one is fastest while anything else runs."""
    workers: int = 1
    """Loader processes of each device."""
    checkpoint_every: int = 500
    """Steps between checkpoints: the most that is lost if the process is killed."""
    log_every: int = 50
    """Steps between log lines."""
    val_every: int = 1000
    """Steps between validations."""

    def __post_init__(self):
        for name in (
            "steps",
            "batch_size",
            "lr",
            "clip",
            "checkpoint_every",
            "log_every",
            "val_every",
            "threads",
        ):
            if getattr(self, name) <= 0:
                raise ValueError(f"RunConfig.{name}: wanted > 0, found {getattr(self, name)}")
        families.family_of(self).check(self)
        if any(side % self.network.input_stride for side in self.input_size):
            found = "x".join(map(str, self.input_size))
            raise ValueError(f"crops.size: wanted multiples of {self.network.input_stride}, found {found}")
        if self.cache and not self.tile_px:
            raise ValueError("RunConfig.cache: wanted tile_px > 0 with it, since it keeps tiles, found 0")

    @property
    def folder(self) -> Path:
        return self.runs / self.name

    @property
    def input_size(self) -> tuple[int, int]:
        """Width and height of the network's input, pixels."""
        if self.people:
            return input_size(self.people.crops.size, self.people.crops.aspect)
        return self.crops.size, self.crops.size

    def load_objects(self, names: dict[int, str] | None = None) -> list[ObjectModel]:
        """Return the run's objects by id, none for people; ValueError as ``data.objects.load_objects``."""
        if self.people:
            return []
        count = getattr(self.network, "keypoints", 8)
        return load_objects(self.data, names, self.objects, self.keypoints, count)


def to_json(config: RunConfig) -> str:
    """Return the run's settings as JSON text, as they are stored beside its checkpoints."""
    return json.dumps(dataclasses.asdict(config), indent=2, default=str)


def load_config(folder: Path) -> RunConfig:
    """Read the settings of the run in ``folder``; raise ValueError if there are none or they do not fit."""
    path = Path(folder) / "config.json"
    try:
        return _build(RunConfig, json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        where = f"is {folder} the folder of a run?"
        raise ValueError(f"{path}: wanted a run's settings, found no such file; {where}") from error
    except (json.JSONDecodeError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: wanted the settings of a run, found {error}") from error


def _build(kind: typing.Any, data: typing.Any):
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return kind(**{name: _build(hints.get(name), value) for name, value in data.items()})
    if isinstance(data, dict) and "annotations" in data:
        return _build(PeopleConfig, data)
    if isinstance(data, dict):  # a network: its family says which
        return _build(families.CONFIGS[data.get("family", "keypoint")], data)
    if kind is Path or (Path in typing.get_args(kind) and data is not None):
        return Path(data)
    return tuple(data) if typing.get_origin(kind) is tuple else data


RESULT_FREE = (
    "runs",
    "faults",
    "cache",
    "accelerator",
    "threads",
    "workers",
    "checkpoint_every",
    "log_every",
    "val_every",
    "val_split",
)


def check_same(config: RunConfig, kept: str, path: Path) -> None:
    """Raise ValueError, naming each field and both values, if a run that is to go on has other settings.

    kept: the stored settings. A setting that is not in them was added later: the run had its default.
    """
    try:
        new, old = (_flat(json.loads(text)) for text in (to_json(config), kept))
    except json.JSONDecodeError as error:
        where = path / "config.json"
        raise ValueError(f"{where}: wanted the settings of a run, found {error}") from error
    since = _flat(json.loads(to_json(RunConfig(config.name, network=type(config.network)()))))
    old = {name: since[name] for name in new if name in since} | old
    differ = [
        f"{k}: wanted {old.get(k)}, found {new.get(k)}"
        for k in sorted({*new, *old})
        if k.split(".")[0] not in RESULT_FREE and new.get(k) != old.get(k)
    ]
    if differ:
        raise ValueError(
            f"{path}: wanted the settings of the run in it, found others ({'; '.join(differ)}); "
            "give this run another --name or remove the folder"
        )


def _flat(tree: dict, prefix: str = "") -> dict:
    flat: dict[str, typing.Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
