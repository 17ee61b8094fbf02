# SPDX-License-Identifier: Apache-2.0
"""The verbs ``table`` and ``online`` and their options."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..config import RunConfig
from ..recipes import RECIPES

if TYPE_CHECKING:
    from .variant import Row


@dataclass(frozen=True)
class Study:
    """Options of both studies."""

    test: tuple[Path, ...]
    """BOP splits to measure every row on."""
    out: Path
    """JSON file for the measured rows; it is written after each group of rows."""
    real: str = "real"
    """What rows of real images state as their split, such as lmo-dev100 for a part of a test set."""
    data: Path | None = None
    """BOP data set with the splits train and val, instead of the recipes'."""
    objects: tuple[int, ...] = ()
    """Ids of the data set's objects to train all networks on; none given: as in the recipes."""
    faults: Literal["refuse", "skip"] = "refuse"
    """What to do with damaged or missing files of the data set, as in train."""
    cache: Path | None = None
    """Folder for tiles that all runs share; without it each run keeps its tiles in memory."""
    runs: Path = Path("runs")
    """Folder of all runs; a row's bundle is stored in its run."""
    seeds: int = 3
    """Number of seeds of the main rows; the other rows have one."""
    steps: int | None = None
    """Steps of every student, instead of the recipe's."""
    size: int | None = None
    """Side of the crops, pixels, instead of the recipes'."""
    batch_size: int | None = None
    """Crops per step, instead of the recipes'."""
    floor: float = 0.0
    """Refuse a teacher that finds a smaller share of the validation split's objects."""
    val_images: int = 600
    """Validation images: one half fits each bundle's score, the other measures it."""
    minutes: float = 0.0
    """Stop after this time with exit code 130; the same command continues. 0: no limit."""
    side_by_side: int = 4
    """Number of runs that train at the same time, on the same batches and with one forward pass of their
    teacher. Each ends as it would alone. Memory must suffice for all of them."""
    precision: Literal["32-true", "bf16-mixed"] = "bf16-mixed"
    workers: int = 1
    """Loader processes."""

    def configure(self, recipe: str, **changes) -> RunConfig:
        """Return a recipe's run with the study's settings; a change to None keeps the recipe's value."""
        names = ("runs", "precision", "workers", "objects", "faults", "cache")
        changes |= {"data": self.data, "batch_size": self.batch_size}
        changes = {name: value for name, value in changes.items() if value is not None}
        run = replace(RECIPES[recipe](), init=None, **{n: getattr(self, n) for n in names}, **changes)
        crops = replace(run.crops, size=self.size or run.crops.size)
        network = replace(run.network, classes=len(self.objects) or run.network.classes)
        return replace(run, crops=crops, network=network)

    def fill(self, rows: list[Row]) -> None:
        """Train and measure the rows; exit with code 130 if they were stopped."""
        from .table import make_table

        how = self.val_images, self.minutes, self.side_by_side, self.real
        if not make_table(rows, self.out, list(self.test), *how):
            raise SystemExit(130)


@dataclass(frozen=True)
class Table(Study):
    """Train and measure a teacher, and students that differ only in the method of distillation; write a
    table.

    Example: python -m training table --test LMO/test data/lmo/val --out docs/results/lmo_distillation.json
    """

    floor: float = 0.2
    """Refuse the teacher if it finds a smaller share of the validation split's objects."""
    teacher: Literal["teacher_lmo", "teacher_cube"] = "teacher_lmo"
    """Recipe of the teacher."""
    student: Literal["student_lmo_none", "student_cube_none"] = "student_lmo_none"
    """Recipe of the students."""
    teacher_steps: int | None = None
    """Steps of the teacher, instead of the recipe's."""
    dense: bool = True
    """Include rows of the dense family; the train and val renders must have depth."""

    def configs(self, *recipes: str) -> tuple[RunConfig, RunConfig]:
        """Return the teacher's and the student's run; recipes: names to use instead of the options'."""
        teacher, student = recipes or (self.teacher, self.student)
        return self.configure(teacher, steps=self.teacher_steps), self.configure(student, steps=self.steps)

    def __call__(self) -> None:
        from ..models.keypoint import darknet_tiny, darknet_tiny_h_slim
        from .offline import check_depth, dense_rows, offline_rows

        teacher, student = self.configs()
        classes = student.network.classes
        dense: tuple[Row, ...] = ()
        others = (("tiny", darknet_tiny(classes=classes)), ("ours", darknet_tiny_h_slim(classes=classes)))
        if self.dense:
            dense_teacher, dense_student = (
                replace(run, network=replace(run.network, classes=classes), data=student.data)
                for run in self.configs("teacher_lmo_dense", "student_lmo_dense_none")
            )
            check_depth(student)
            dense = dense_rows(dense_teacher, dense_student, self.floor, teacher.folder)
        self.fill(offline_rows(teacher, student, self.seeds, self.floor, others, dense))


@dataclass(frozen=True)
class Online(Study):
    """Train and measure heatmap students that differ only in how their branches teach each other; write a
    table.

    Example: python -m training online --test LMO/test data/lmo/val --out docs/results/lmo_online.json
    """

    side_by_side: int = 5
    """Number of runs that train at the same time, on the same batches. Each ends as it would alone. Memory
    must suffice for all of them."""
    locator: Path | None = None
    """Run of the keypoint family, exported to RUN/bundle, that finds the objects. Without one, the networks
    are given the true boxes, and the rows say so."""
    backbones: tuple[
        Literal["mobilenetv2", "shufflenetv2", "resnet18", "darknet-tiny", "darknet-tiny-h"], ...
    ] = ("mobilenetv2", "shufflenetv2")
    """Light backbones, the most important first."""
    width: int | None = None
    """Channels of the deployed decoder, instead of the recipe's."""
    tile_px: int | None = None
    """Side of the tiles, instead of the recipe's."""
    votes: bool = True
    """Include the rows of the keypoint family: online ADLP."""
    hourglasses: bool = True
    """Include hourglasses of 2 and 4 stacks, and FPD with its teacher of 8."""

    def students(self) -> tuple[RunConfig, RunConfig]:
        """Return the plain heatmap student's run, and the plain run of the keypoint family."""
        from .online import heatmap_network

        changes = {"steps": self.steps, "tile_px": self.tile_px}
        student = self.configure("student_lmo_heatmap", **changes)
        if self.width:
            network = replace(heatmap_network(student), widths=(self.width,))
            student = replace(student, network=network)
        return student, self.configure("student_lmo_none", **changes)

    def __call__(self) -> None:
        from .online import online_rows

        student, votes = self.students()
        how = self.backbones, votes if self.votes else None, self.locator, self.hourglasses
        self.fill(online_rows(student, self.seeds, self.floor, *how))
