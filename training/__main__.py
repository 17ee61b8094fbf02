# SPDX-License-Identifier: Apache-2.0
"""The command of the offline side: ``python -m training make | render | train | export | add-mesh | evaluate
| calibrate | evaluate-people | table | online | merge``."""

from __future__ import annotations

import sys
from typing import Annotated

import tyro

from .cli import AddMesh, Calibrate, Evaluate, EvaluatePeople, Export, Make, Merge, Render
from .config import RunConfig
from .recipes import RECIPES
from .studies.options import Online, Table


def train_command() -> type:
    """Return ``train RECIPE [--options]``: every recipe is a sub-command, every setting an option."""
    return tyro.extras.subcommand_type_from_defaults(
        {name.replace("_", "-"): recipe() for name, recipe in RECIPES.items()},
        {name.replace("_", "-"): recipe.__doc__ or "" for name, recipe in RECIPES.items()},
    )


Command = (
    Annotated[Render, tyro.conf.subcommand("render")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Calibrate, tyro.conf.subcommand("calibrate")]
    | Annotated[EvaluatePeople, tyro.conf.subcommand("evaluate-people")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Table, tyro.conf.subcommand("table")]
    | Annotated[AddMesh, tyro.conf.subcommand("add-mesh")]
    | Annotated[Online, tyro.conf.subcommand("online")]
    | Annotated[Make, tyro.conf.subcommand("make")]
    | Annotated[Merge, tyro.conf.subcommand("merge")]
)


def main(arguments: list[str] | None = None) -> None:
    """Run a command; an error that the user can fix ends with one line and exit code 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments[:1] == ["train"]:
            config: RunConfig = tyro.cli(
                train_command(),
                args=arguments[1:],
                prog="python -m training train",
                description="Train a recipe. Stop with Ctrl-C; the same command goes on from there.",
            )
            run_train(config)
        else:
            tyro.cli(Command, args=arguments, prog="python -m training", description=__doc__ + HELP)()
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error


HELP = """

From a mesh to a bundle, in one command:
  python -m training make --mesh part.ply --out bundles/part --hours 8

Then: ros2 launch pose_kd_ros pose.launch.py bundle:=$PWD/bundles/part

`python -m training train --help` lists the recipes, `python -m training render --help` the options."""


def run_train(config: RunConfig) -> None:
    """Train and print what it took; exit with code 130 on Ctrl-C."""
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


if __name__ == "__main__":
    main()
