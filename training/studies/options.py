# SPDX-License-Identifier: Apache-2.0
"""The options of the verbs ``table`` and ``online``."""

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
    """Options of both tables."""

    test: tuple[Path, ...]
    """BOP splits to measure every row on."""
    out: Path
    """JSON file of the rows that are measured; written after each."""
    real: str = "real"
    """Name of the split in rows of real images, such as lmo-dev100 for a part of a test set."""
    data: Path | None = None
    """BOP data set with the splits train and val, instead of the recipes'."""
    objects: tuple[int, ...] = ()
    """Ids of the data set's objects that all networks are for; none given: the recipes' networks."""
    faults: Literal["refuse", "skip"] = "refuse"
    """What to do with damaged or missing files of the data set, as in train."""
    cache: Path | None = None
    """Folder for tiles that all runs share, instead of tiles in the memory of each."""
    runs: Path = Path("runs")
    """Folder of all runs; the rows' bundles lie in their runs."""
    seeds: int = 3
    """Seeds of the main rows; the others have one."""
    steps: int | None = None
    """Steps of every student, instead of the recipe's."""
    size: int | None = None
    """Side of the crops, pixels, instead of the recipes'."""
    batch_size: int | None = None
    """Crops a step, instead of the recipes'."""
    floor: float = 0.0
    """Refuse a teacher that finds a smaller share of the validation split's objects."""
    val_images: int = 600
    """Validation images: half fit each bundle's score, half measure it."""
    minutes: float = 0.0
    """Stop after this time with exit code 130; the same command goes on. 0: no limit."""
    side_by_side: int = 4
    """Runs that train at a time, on the same batches and with one forward pass of their teacher for all; each
    ends as it would alone. They need memory for as many."""
    precision: Literal["32-true", "bf16-mixed"] = "bf16-mixed"
    workers: int = 1
    """Loader processes."""

    def configure(self, recipe: str, **changes) -> RunConfig:
        """Return a recipe's run with the table's settings; changes that are None keep the recipe's."""
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
    """Train and measure a teacher and students that differ in the method of distillation alone; a table.

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
    """With rows of the dense family; the train and val renders must have depth."""

    def configs(self, *recipes: str) -> tuple[RunConfig, RunConfig]:
        """Return the teacher's and the student's run, of other recipes if they are named."""
        teacher, student = recipes or (self.teacher, self.student)
        return self.configure(teacher, steps=self.teacher_steps), self.configure(student, steps=self.steps)

    def __call__(self) -> None:
        from ..models.keypoint import darknet_tiny, darknet_tiny_h_slim
        from .offline import check_depth, dense_rows, offline_rows

        teacher, student = self.configs()
        classes, dense = student.network.classes, ()
        others = (("tiny", darknet_tiny(classes=classes)), ("ours", darknet_tiny_h_slim(classes=classes)))
        if self.dense:
            pair = self.configs("teacher_lmo_dense", "student_lmo_dense_none")
            pair = [
                replace(run, network=replace(run.network, classes=classes), data=student.data) for run in pair
            ]
            check_depth(student)
            dense = dense_rows(*pair, self.floor, teacher.folder)
        self.fill(offline_rows(teacher, student, self.seeds, self.floor, others, dense))


@dataclass(frozen=True)
class Online(Study):
    """Train and measure heatmap students that differ in how their branches teach each other alone; a table.

    Example: python -m training online --test LMO/test data/lmo/val --out docs/results/lmo_online.json
    """

    side_by_side: int = 5
    """Runs that train at a time, on the same batches; each ends as it would alone. They need memory
    for as many."""
    locator: Path | None = None
    """Run of the keypoint family, exported to RUN/bundle, that finds the objects; without one the true boxes
    are given, and the rows say so."""
    backbones: tuple[
        Literal["mobilenetv2", "shufflenetv2", "resnet18", "darknet-tiny", "darknet-tiny-h"], ...
    ] = ("mobilenetv2", "shufflenetv2")
    """Light backbones, the ones that count first."""
    width: int | None = None
    """Channels of the deployed decoder, instead of the recipe's."""
    tile_px: int | None = None
    """Side of the tiles, instead of the recipe's."""
    votes: bool = True
    """With the rows of the keypoint family: online ADLP."""
    hourglasses: bool = True
    """With hourglasses of 2 and 4 stacks, and FPD with its teacher of 8."""

    def students(self) -> tuple[RunConfig, RunConfig]:
        """Return the plain heatmap student's run, and the plain run of the keypoint family."""
        changes = {"steps": self.steps, "tile_px": self.tile_px}
        student = self.configure("student_lmo_heatmap", **changes)
        if self.width:
            student = replace(student, network=replace(student.network, widths=(self.width,)))
        return student, self.configure("student_lmo_none", **changes)

    def __call__(self) -> None:
        from .online import online_rows

        student, votes = self.students()
        how = self.backbones, votes if self.votes else None, self.locator, self.hourglasses
        self.fill(online_rows(student, self.seeds, self.floor, *how))
