"""The offline side's command: ``python -m training render | train | export | evaluate | table | merge``."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Literal

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
    """Processes; more than one gives each a single thread."""
    shard: str = "0/1"
    """Part i/n of the scenes, to a folder of its own; `merge OUT/SPLIT` puts the n together."""
    render: tyro.conf.OmitArgPrefixes[RenderConfig] = field(default_factory=RenderConfig)


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
    val_images: int = 600
    """Images of the run's validation split on which pose_score is chosen and the manifest's figures are
    measured. 0, or a run with an empty val_split: pose_score is 0, so that every pose is kept."""


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
    locator: Path | None = None
    """Keypoint bundle that finds the objects for a dense one."""
    given_boxes: bool = False
    """Look in the true boxes instead of finding them; the figures say so."""


@dataclass(frozen=True)
class Table:
    """Train and measure a teacher and students that differ in the method of distillation alone; a table.

    Example: python -m training table --test LMO/test data/lmo/val --out docs/results/lmo_distillation.json
    """

    test: tuple[Path, ...]
    """BOP splits to measure every row on."""
    out: Path
    """JSON file of the rows; written after each, "not run" for those not reached."""
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
            if network.family == "dense":  # its tiles are in memory alone
                config = replace(config, cache=None)
            result.append(replace(config, crops=crops, steps=steps or config.steps, network=network))
        return tuple(result)


@dataclass(frozen=True)
class Merge:
    """Put together what the shards of render or of table have made; the same as one run's.

    Example: python -m training merge data/cube/train
    """

    whole: tyro.conf.Positional[Path]
    """The table's file (.json) or the split's folder, without .shard-i-of-n."""


def train_command() -> type:
    """``train RECIPE [--options]``: every recipe is a sub-command whose settings can be overridden one by
    one."""
    return tyro.extras.subcommand_type_from_defaults(
        {name.replace("_", "-"): recipe() for name, recipe in RECIPES.items()},
        {name.replace("_", "-"): recipe.__doc__ for name, recipe in RECIPES.items()},
    )


Command = (
    Annotated[Render, tyro.conf.subcommand("render")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Table, tyro.conf.subcommand("table")]
    | Annotated[Merge, tyro.conf.subcommand("merge")]
)


def main(arguments: list[str] | None = None) -> None:
    """Entry point; errors that a user can mend end with one line and exit code 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments[:1] == ["train"]:
            config = tyro.cli(
                train_command(),
                args=arguments[1:],
                prog="python -m training train",
                description="Train a recipe. Stop with Ctrl-C; the same command goes on from there.",
            )
            run_train(config)
        else:
            run(tyro.cli(Command, args=arguments, prog="python -m training", description=__doc__ + HELP))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error


HELP = """

From a mesh to a bundle, in four commands:
  python -m training render --out data/mine --split train --mesh part.ply
  python -m training render --out data/mine --split val --count 1000 --seed 2 --mesh part.ply
  python -m training train student-cube-none --name mine --data data/mine --init None --lr 1e-3 --steps 10000
  python -m training export runs/mine --out bundles/mine --names 1 part

Then: ros2 launch pose_kd_ros pose.launch.py bundle:=bundles/mine

`python -m training train --help` lists the recipes, `python -m training render --help` the options."""


def run_train(config: RunConfig) -> None:
    from .train import Stopped, train

    try:
        print(
            f"trained: {train(config)}; "
            f"next: python -m training export {config.folder} --out bundles/{config.name}"
        )
    except Stopped as stopped:
        print(stopped)
        raise SystemExit(130) from None


def run(command) -> None:
    if isinstance(command, Render):
        from .render.dataset import render_dataset
        from .shards import Shard

        shard = Shard.parse(command.shard)
        part = command.count, command.seed, command.workers, (shard.index, shard.count)
        try:
            render_dataset(command.render, command.out, command.split, *part)
        except KeyboardInterrupt:
            raise SystemExit("stopped; the same command goes on where this one was") from None
    elif isinstance(command, Export):
        from .export import export_run

        print(export_run(command.run, command.out, command.names, command.search_size, command.val_images))
    elif isinstance(command, Table):
        run_table(command)
    elif isinstance(command, Merge):
        from .shards import merge

        print(merge(command.whole))
    else:
        from .evaluate import evaluate_command

        evaluate_command(*(getattr(command, field.name) for field in fields(command)))


def check_depth(run: RunConfig) -> None:
    """Raise ValueError if the data set's renders have no depth: not after days, but before the first row."""
    from pose_kd_ros.evaluation.bop import BopDataset

    for split in (run.data / run.split, run.data / run.val_split):
        if BopDataset(split).images[0].depth is None:
            raise ValueError(f"{split}: no depth, which dense rows want; render --depth, or table --no-dense")


def run_table(command: Table) -> None:
    from .models.network import darknet_tiny, darknet_tiny_h_slim
    from .plan import Row, cut, dense_rows, plan
    from .shards import Shard
    from .table import make_table

    shard = Shard.parse(command.shard)
    command = replace(command, runs=shard.of(command.runs))
    teacher, student = command.configs()
    classes = student.network.classes
    others = (("tiny", darknet_tiny(classes=classes)), ("ours", darknet_tiny_h_slim(classes=classes)))
    dense: tuple[Row, ...] = ()
    if command.dense:
        pair = command.configs("teacher_lmo_dense", "student_lmo_dense_none")
        pair = [
            replace(run, network=replace(run.network, classes=classes), data=student.data) for run in pair
        ]
        check_depth(student)
        dense = dense_rows(*pair, command.floor, None if command.together else teacher.folder)
    rows = plan(teacher, student, command.seeds, command.floor, others, dense, command.together)
    side = command.side_by_side, command.together
    out, in_all = command.out, 0
    if shard.count > 1:
        out, in_all = shard.of(out), sum(row.listed for row in rows)
        rows = cut(rows, (shard.index, shard.count), *side)
    if not make_table(rows, out, list(command.test), command.val_images, command.minutes, *side, in_all):
        raise SystemExit(130)


if __name__ == "__main__":
    main()
