"""The offline side's command: ``python -m training make | render | train | export | evaluate |
evaluate-people | table | online | merge``."""

from __future__ import annotations

import sys
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Annotated

import tyro

from .cli import Evaluate, EvaluatePeople, Export, Make, Merge, Online, Render, Table
from .config import RunConfig
from .recipes import RECIPES

if TYPE_CHECKING:
    from .studies.plan import Row
    from .studies.shards import Shard


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
    | Annotated[EvaluatePeople, tyro.conf.subcommand("evaluate-people")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Table, tyro.conf.subcommand("table")]
    | Annotated[Online, tyro.conf.subcommand("online")]
    | Annotated[Make, tyro.conf.subcommand("make")]
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

From a mesh to a bundle, in one command:
  python -m training make --mesh part.ply --out bundles/part --hours 8

Then: ros2 launch pose_kd_ros pose.launch.py bundle:=$PWD/bundles/part

`python -m training train --help` lists the recipes, `python -m training render --help` the options."""


def run_train(config: RunConfig) -> None:
    from .fit.learner import cost_so_far
    from .fit.train import Stopped, train

    try:
        last, cost = train(config), cost_so_far(config.folder)
        print(
            f"{cost['train_crops_per_second']:g} crops a second; "
            f"{cost['train_waiting_share']:.1%} of the time waited for crops\n"
            f"trained: {last}; next: python -m training export {config.folder} --out bundles/{config.name}"
        )
    except Stopped as stopped:
        print(stopped)
        raise SystemExit(130) from None


def run(command) -> None:
    if isinstance(command, Render):
        from .render.dataset import render_dataset
        from .studies.shards import Shard

        shard = Shard.parse(command.shard)
        part = command.count, command.seed, command.workers, (shard.index, shard.count)
        try:
            render_dataset(command.render, command.out, command.split, *part)
        except KeyboardInterrupt:
            raise SystemExit("stopped; the same command goes on where this one was") from None
    elif isinstance(command, Make):
        run_make(command)
    elif isinstance(command, Export):
        from .export.run import export_with_locator

        how = command.names, command.search_size, command.val_images, command.locator, command.object_runs
        print(export_with_locator(command.run, command.out, *how))
    elif isinstance(command, Table):
        run_table(command)
    elif isinstance(command, Online):
        run_online(command)
    elif isinstance(command, EvaluatePeople):
        from .measure.people import evaluate_people_command

        evaluate_people_command(*(getattr(command, field.name) for field in fields(command)))
    elif isinstance(command, Merge):
        from .studies.shards import merge

        print(merge(command.whole))
    else:
        from .measure.evaluate import evaluate_command

        evaluate_command(*(getattr(command, field.name) for field in fields(command)))


def run_make(command: Make) -> None:
    from .export.make import make
    from .fit.train import Stopped

    try:
        print(make(command))
    except (KeyboardInterrupt, Stopped):
        print("stopped; the same command goes on where this one was", file=sys.stderr)
        raise SystemExit(130) from None


def check_depth(run: RunConfig) -> None:
    """Raise ValueError if the data set's renders have no depth: not after days, but before the first row."""
    from pose_kd_ros.evaluation.bop import BopDataset

    for split in (run.data / run.split, run.data / run.val_split):
        if BopDataset(split).images[0].depth is None:
            raise ValueError(f"{split}: no depth, which dense rows want; render --depth, or table --no-dense")


def run_table(command: Table) -> None:
    from .models.network import darknet_tiny, darknet_tiny_h_slim
    from .studies.plan import dense_rows, plan
    from .studies.shards import Shard

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
    fill_table(rows, command, shard, command.together)


def run_online(command: Online) -> None:
    from .studies.plan_online import online_plan
    from .studies.shards import Shard

    shard = Shard.parse(command.shard)
    command = replace(command, runs=shard.of(command.runs))
    student = command.config("student_lmo_heatmap")
    votes = command.config("student_lmo_none") if command.votes else None
    how = command.backbones, votes, command.locator, command.hourglasses
    fill_table(online_plan(student, command.seeds, command.floor, *how), command, shard, False)


def fill_table(rows: list[Row], command: Table | Online, shard: Shard, together: bool) -> None:
    """Train and measure a table's rows, or those of a shard of it."""
    from .studies.plan import cut
    from .studies.table import make_table

    side = command.side_by_side, together
    out, in_all = command.out, 0
    if shard.count > 1:
        out, in_all = shard.of(out), sum(row.listed for row in rows)
        rows = cut(rows, (shard.index, shard.count), *side)
    how = command.val_images, command.minutes, *side, in_all, command.real
    if not make_table(rows, out, list(command.test), *how):
        raise SystemExit(130)


if __name__ == "__main__":
    main()
