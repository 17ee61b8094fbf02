# SPDX-License-Identifier: Apache-2.0
"""The rows of the distillation study: a teacher, and students that differ only in the method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pose_kd_ros.datasets.bop import BopDataset

from ..config import RunConfig
from ..losses.distill import DistillConfig
from ..models.keypoint import NetworkConfig
from .variant import Row, Variant, in_stages

RATIO = 1.0  # distill.ratio of every method: the teacher's gradient is as large as the task's


def taught(distill: DistillConfig, steps: int = 1) -> Callable[[RunConfig], RunConfig]:
    """Return a function that changes a student's run to a method. steps: factor on the student's steps."""

    def change(student: RunConfig) -> RunConfig:
        return replace(student, distill=distill, steps=steps * student.steps)

    return change


def methods(adlp: DistillConfig) -> list[Variant]:
    """Return all methods, the most important first. adlp: our settings, from which the others differ."""

    def variant(name: str, **options) -> Variant:
        return Variant(name, taught(replace(adlp, **options)))

    return [
        Variant("none", taught(DistillConfig())),
        variant("adlp"),
        variant("naive", method="naive"),
        variant("fkd", method="fkd"),
        variant("adlp, released form", mass="score", rho=0.25, eps=1e-6),
        variant("adlp+fkd", method="adlp+fkd"),
        variant("adlp, uncertainty", uncertainty=True),
        Variant("none, 2x steps", taught(DistillConfig(), steps=2)),
    ]


def ablations(adlp: DistillConfig) -> list[Variant]:
    """Return our settings with one change each; they justify the defaults."""

    def changed(name: str, **options) -> Variant:
        return Variant(f"adlp, {name}", taught(replace(adlp, **options)))

    return [
        changed("mass score", mass="score", rho=0.25),
        changed("eps 1e-3", eps=1e-3),
        changed("eps 1e-5", eps=1e-5),
        changed("ratio 0.3", ratio=0.3),
        changed("ratio 3", ratio=3.0),
        changed("teacher_score 0.01", teacher_score=0.01),
        changed("teacher_score 0.3", teacher_score=0.3),
        changed("ramp 0.3", ramp=0.3),
        changed("lead 0.3", lead=0.3),
    ]


def offline_rows(
    teacher: RunConfig,
    student: RunConfig,
    seeds: int,
    floor: float,
    others: tuple[tuple[str, NetworkConfig], ...] = (),
    dense: tuple[Row, ...] = (),
) -> list[Row]:
    """Return the table's rows, the most important first: the teacher; none and adlp with all seeds; the other
    methods; the dense family; other networks; ablations; the other seeds of the other methods.

    others: names and networks of further students, which are trained by all methods with one seed. dense:
    rows of the dense family, its teacher first.
    """
    adlp = DistillConfig("adlp", teacher=teacher.folder, floor=floor, ratio=RATIO)
    main, rest = methods(adlp)[:2], methods(adlp)[2:]
    more = [replace(student, name=f"{student.name}-{name}", network=network) for name, network in others]
    return in_stages(
        [
            [Row("teacher", teacher)],
            *([each.row(student, seed) for each in main] for seed in range(seeds)),
            [each.row(student) for each in rest],
            dense,
            *([each.row(other) for each in (*main, *rest)] for other in more),
            [each.row(student) for each in ablations(adlp)],
            *([each.row(student, seed) for each in rest] for seed in range(1, seeds)),
        ]
    )


def dense_rows(
    teacher: RunConfig, student: RunConfig, floor: float, locator: Path | None = None
) -> tuple[Row, ...]:
    """Return the dense family's rows: teacher, none, adlp, naive.

    locator: run whose bundle finds the objects; without one, the networks are given the true boxes.
    """
    adlp = DistillConfig("adlp", teacher=teacher.folder, floor=floor, ratio=RATIO)
    rows = Row("teacher", teacher), *(each.row(student) for each in methods(adlp)[:3])
    return tuple(replace(row, locator=locator) for row in rows)


def check_depth(run: RunConfig) -> None:
    """Raise ValueError if a data set's renders have no depth; called before the first row is trained."""
    for split in (run.data / run.split, run.data / run.val_split):
        if BopDataset(split).images[0].depth is None:
            raise ValueError(
                f"{split}: wanted depth for the dense rows, found none; render --depth, or table --no-dense"
            )
