"""What the offline side's command can be told to do: one dataclass a verb, its fields are the options."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import tyro

from .config import RunConfig
from .recipes import RECIPES
from .render.config import RenderConfig


@dataclass(frozen=True)
class Render:
    """Render a BOP data set from a mesh, or from the procedural cube if no mesh is given.

    Example: python -m training render --out data/cube --split train --count 10000 --workers 2
    """

    out: Path
    """Folder of the data set; models/ and the split folder are made in it."""
    split: str = "train"
    """Name of the part, a folder in --out: train, val, ..."""
    count: int = 10_000
    """Images in the split; a run that was stopped goes on, complete scenes of it are kept."""
    seed: int = 1
    """Image i depends on the settings, this and i alone; two splits want two seeds."""
    workers: int = 1
    """Processes; more than one gives each a single thread. 0: no process of its own; a graphics driver that
    aborts then ends the command without a word of which image it was."""
    shard: str = "0/1"
    """Part i/n of the scenes, to a folder of its own; `merge OUT/SPLIT` puts the n together."""
    render: tyro.conf.OmitArgPrefixes[RenderConfig] = field(default_factory=RenderConfig)


@dataclass(frozen=True)
class Make:
    """Make a bundle from a mesh in the time given: render, train, export, evaluate. Ctrl-C stops it, the same
    command goes on.

    Example: python -m training make --mesh part.ply --out bundles/part --hours 8
    """

    mesh: Path
    """Mesh file (ply, obj, stl), or a BOP models folder for several objects in one network."""
    out: Path
    """The bundle's folder; its name is the bundle's name and, of one object, the class name."""
    hours: float = 8.0
    """Time for all of it, on this machine as busy as it is now."""
    mesh_unit: Literal["m", "mm"] = "mm"
    """Unit of the numbers in the mesh file."""
    symmetries: Path | None = None
    """A models_info.json that says how object 1 maps to itself. None: it does not."""
    appearance: Literal["own", "random"] = "own"
    """``own``: the mesh has its real colours or texture. ``random``: nobody knows how it looks."""
    stand: Literal["any", "upright"] = "any"
    """``upright``: the object always stands with its z axis up, and is seen from above."""
    pictures: Path | None = None
    """Folder of photographs to put the object on, none of which shows it. None: procedural pictures."""
    names: dict[int, str] = field(default_factory=dict)
    """Class names of several objects by id: --names 1 cup 2 plate."""
    init: Path | None = None
    """Checkpoint (last.ckpt) of another surface run to start from, instead of ImageNet weights."""
    work: Path | None = None
    """Folder of the data, the run and the evaluation (default: runs/make_<name>)."""
    seed: int = 0

    @property
    def folder(self) -> Path:
        return self.work or Path("runs") / f"make_{self.out.name}"

    @property
    def render(self) -> RenderConfig:
        """Of the held-out frames."""
        return RenderConfig(
            mesh=self.mesh,
            mesh_unit=self.mesh_unit,
            symmetries=self.symmetries,
            appearance=self.appearance,
            stand=self.stand,
            pictures=self.pictures,
            pictures_split="val" if self.pictures else "all",
        )

    @property
    def views(self) -> RenderConfig:
        return replace(self.render, view="object", pictures_split="train" if self.pictures else "all")


@dataclass(frozen=True)
class Export:
    """Turn a run's last checkpoint into a bundle that the node runs.

    Example: python -m training export runs/student_cube_none --out bundles/mine --names 1 mine
    """

    run: tyro.conf.Positional[Path]
    """Folder of the run: it holds config.json and last.ckpt."""
    out: Path
    """The bundle's folder; its name is the bundle's name."""
    names: dict[int, str] = field(default_factory=dict)
    """Class name of each object id, as TF frames and detections show it: --names 1 cube."""
    search_size: int = 320
    """Longer side, pixels, of the whole frame when nothing is tracked; larger finds smaller objects and costs
    more. A multiple of the network's largest stride: 64, with five levels (teacher) 128."""
    val_images: int = 2000
    """Images of the run's validation split on which pose_score is chosen and the manifest's figures are
    measured. 0, or a run with an empty val_split: pose_score is 0, so that every pose is kept."""
    locator: Path | None = None
    """What finds the objects for a dense or heatmap run, which finds none by itself: a keypoint bundle, or a
    run of the keypoint family, exported with the same settings. It goes into the bundle."""
    object_runs: tuple[Path, ...] = ()
    """Of a surface run of several objects: folders of surface runs of single objects among them. In the
    bundle, their networks look at these objects, and the run's own searches the whole frame."""


@dataclass(frozen=True)
class Evaluate:
    """Measure a bundle on a BOP split through the robot's own estimator.

    Example: python -m training evaluate bundles/cube --data data/cube/val
    """

    bundle: tyro.conf.Positional[Path]
    """Folder of the bundle."""
    data: Path
    """Split folder of a BOP data set; meshes and models_info.json are in ../models_eval or ../models."""
    limit: int = 0
    """Only the first N images; 0 for all."""
    out: Path | None = None
    """Write the figures there as JSON too."""
    faults: Literal["refuse", "skip"] = "refuse"
    """What to do about an image that is missing, damaged or wrongly described: stop and name it, or measure
    the others, with a count."""
    given_boxes: bool = False
    """Look in the true boxes instead of finding them; the figures say so."""


@dataclass(frozen=True)
class EvaluatePeople:
    """Measure a bundle for people on files of COCO or MPII, in the boxes that they give.

    Example: python -m training evaluate-people BUNDLE --kind coco --annotations VAL.json --images val2017
    """

    bundle: tyro.conf.Positional[Path]
    """Folder of the bundle."""
    kind: Literal["coco", "mpii"]
    annotations: Path
    """person_keypoints_val2017.json, or MPII's valid.json."""
    images: Path
    """Folder of the pictures."""
    heads: Path | None = None
    """MPII: mpii_human_pose_v1_u12_1.mat, for head boxes; without it PCKh is not comparable with others'."""
    detections: Path | None = None
    """COCO: boxes of a detector (image_id, category_id, bbox, score), instead of the annotated ones."""
    suppress: float | None = None
    """COCO with detections: of people more alike than this keep the best (published figures: 0.9)."""
    flip_test: bool = True
    """Average the maps with those of the mirrored picture."""
    out: Path | None = None
    """Write the figures there as JSON too."""
    faults: Literal["refuse", "skip"] = "refuse"
    """What to do about missing or damaged pictures and entries: stop and name them, or measure the others."""


@dataclass(frozen=True)
class Table:
    """Train and measure a teacher and students that differ in the method of distillation alone; a table.

    Example: python -m training table --test LMO/test data/lmo/val --out docs/results/lmo_distillation.json
    """

    test: tuple[Path, ...]
    """BOP splits to measure every row on."""
    out: Path
    """JSON file of the rows; written after each, "not run" for those not reached."""
    real: str = "real"
    """What rows of real images call their split: a part of a test set that is looked at is not the set."""
    teacher: Literal["teacher_lmo", "teacher_cube"] = "teacher_lmo"
    """Recipe of the teacher."""
    student: Literal["student_lmo_none", "student_cube_none"] = "student_lmo_none"
    """Recipe of the students."""
    dense: bool = True
    """With rows of the dense family; the train and val renders must have depth."""
    data: Path | None = None
    """BOP data set with the splits train and val, instead of the recipes'."""
    objects: tuple[int, ...] = ()
    """Ids of the data set's objects that all networks are for; none given: the recipes' networks."""
    faults: Literal["refuse", "skip"] = "refuse"
    """What to do about damaged or missing files of the data set, as in train."""
    cache: Path | None = None
    """Folder for tiles that all runs share, instead of each its own in memory."""
    runs: Path = Path("runs")
    """Folder of all runs; the rows' bundles lie in their runs."""
    seeds: int = 3
    """Seeds of none and adlp; the other methods have one."""
    steps: int | None = None
    """Steps of every student, instead of the recipe's."""
    teacher_steps: int | None = None
    """Steps of the teacher, instead of the recipe's."""
    size: int | None = None
    """Side of the crops, pixels, instead of the recipes'."""
    batch_size: int | None = None
    """Crops a step, instead of the recipes'."""
    floor: float = 0.2
    """Refuse the teacher if it finds a smaller share of the validation split's objects."""
    val_images: int = 600
    """Validation images: half fit each bundle's score, half measure it."""
    minutes: float = 0.0
    """Stop after so many and say so with exit code 130; the same command goes on. 0: no limit."""
    side_by_side: int = 4
    """So many students train at a time, on the same batches and with one teacher's forward pass for all; each
    ends as it would alone. Memory for as many."""
    together: bool = False
    """Train each teacher along with its students, from the first step and for as many, instead of before
    them."""
    shard: str = "0/1"
    """Part i/n of the table, with runs and rows of its own; `merge OUT` puts the n together. A shard trains
    the teachers that it needs."""
    precision: Literal["32-true", "bf16-mixed"] = "bf16-mixed"
    workers: int = 1
    """Loader processes."""

    def configs(self, *recipes: str) -> tuple[RunConfig, RunConfig]:
        """The teacher's and the student's run; of other recipes than the table's own, if they are named."""
        shared = {"data": self.data, "batch_size": self.batch_size}
        shared = {k: v for k, v in shared.items() if v is not None}
        shared |= {
            name: getattr(self, name) for name in ("runs", "precision", "workers", "objects", "faults")
        }
        shared |= {"init": None, "cache": self.cache}
        result = []
        names = recipes or (self.teacher, self.student)
        for name, steps in zip(names, (self.teacher_steps, self.steps)):
            config = replace(RECIPES[name](), **shared)
            crops = replace(config.crops, size=self.size or config.crops.size)
            network = replace(config.network, classes=len(self.objects) or config.network.classes)
            result.append(replace(config, crops=crops, steps=steps or config.steps, network=network))
        return tuple(result)


@dataclass(frozen=True)
class Online:
    """Train and measure heatmap students that differ in how their branches teach each other alone; a table.

    Example: python -m training online --test LMO/test data/lmo/val --out docs/results/lmo_online.json
    """

    test: tuple[Path, ...]
    """BOP splits to measure every row on."""
    out: Path
    """JSON file of the rows; written after each, "not run" for those not reached."""
    real: str = "real"
    """What rows of real images call their split: a part of a test set that is looked at is not the set."""
    locator: Path | None = None
    """Run of the keypoint family, exported to RUN/bundle, that finds the objects; without one the true boxes
    are given, and the rows say so."""
    backbones: tuple[
        Literal["mobilenetv2", "shufflenetv2", "resnet18", "darknet-tiny", "darknet-tiny-h"], ...
    ] = (
        "mobilenetv2",
        "shufflenetv2",
    )
    """Light backbones, the ones that count first."""
    data: Path | None = None
    """BOP data set with the splits train and val, instead of the recipes'."""
    objects: tuple[int, ...] = ()
    """Ids of the data set's objects that all networks are for; none given: the recipes' networks."""
    faults: Literal["refuse", "skip"] = "refuse"
    """What to do about damaged or missing files of the data set, as in train."""
    cache: Path | None = None
    """Folder for tiles that all runs share, instead of each its own in memory."""
    runs: Path = Path("runs")
    """Folder of all runs; the rows' bundles lie in their runs."""
    seeds: int = 3
    """Seeds of the main rows; controls and new rows have one."""
    steps: int | None = None
    """Steps of every run, instead of the recipe's."""
    size: int | None = None
    """Side of the crops, pixels, instead of the recipe's."""
    width: int | None = None
    """Channels of the deployed decoder, instead of the recipe's."""
    tile_px: int | None = None
    """Side of the tiles, instead of the recipe's."""
    batch_size: int | None = None
    """Crops a step, instead of the recipe's."""
    floor: float = 0.0
    """Refuse a teacher, FPD's or OKDHP's for ADLP, that finds a smaller share of the validation split's
    objects."""
    votes: bool = True
    """With the rows of the keypoint family: online ADLP."""
    hourglasses: bool = True
    """With hourglasses of 2 and 4 stacks, and FPD with its teacher of 8."""
    val_images: int = 600
    """Validation images: half fit each bundle's score, half measure it."""
    minutes: float = 0.0
    """Stop after so many and say so with exit code 130; the same command goes on. 0: no limit."""
    side_by_side: int = 5
    """So many train at a time, on the same batches; each ends as it would alone. Memory for as many."""
    shard: str = "0/1"
    """Part i/n of the table, with runs and rows of its own; `merge OUT` puts the n together."""
    precision: Literal["32-true", "bf16-mixed"] = "bf16-mixed"
    workers: int = 1
    """Loader processes."""

    def config(self, recipe: str) -> RunConfig:
        """A recipe's run as the table has it."""
        names = ("runs", "precision", "workers", "objects", "faults", "cache")
        given = ("data", "batch_size", "steps", "tile_px")
        changes = {name: getattr(self, name) for name in names}
        changes |= {name: getattr(self, name) for name in given if getattr(self, name) is not None}
        run = replace(RECIPES[recipe](), **changes)
        crops = replace(run.crops, size=self.size or run.crops.size)
        network = replace(run.network, classes=len(self.objects) or run.network.classes)
        if self.width and network.family == "heatmap":
            network = replace(network, widths=(self.width,))
        return replace(run, crops=crops, network=network)


@dataclass(frozen=True)
class Merge:
    """Put together what the shards of render or of table have made; the same as one run's.

    Example: python -m training merge data/cube/train
    """

    whole: tyro.conf.Positional[Path]
    """The table's file (.json) or the split's folder, without .shard-i-of-n."""
