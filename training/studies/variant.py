# SPDX-License-Identifier: Apache-2.0
"""The rows of a study's table: runs that differ in one setting, in the order of their importance."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ..config import RunConfig
from ..fit.learner import differences


@dataclass(frozen=True)
class Variant:
    """One way to train a student: its name in the table, and how it changes the student's run."""

    name: str
    change: Callable[[RunConfig], RunConfig]

    def run(self, student: RunConfig, seed: int = 0) -> RunConfig:
        """Return the student's run, trained in this way."""
        name = f"{student.name}-{re.sub('[^A-Za-z0-9.]+', '_', self.name)}-{seed}"
        return replace(self.change(student), name=name, seed=seed)

    def row(self, student: RunConfig, seed: int = 0) -> Row:
        """Return the row of the student's run."""
        return Row(self.name, self.run(student, seed))


@dataclass(frozen=True)
class Row:
    """A run of the table. Rows of the same stage are equally important."""

    method: str
    run: RunConfig
    stage: int = 0
    locator: Path | None = None
    """Run whose bundle finds the objects for a family that does not search."""


def in_stages(stages: Iterable[Iterable[Row]]) -> list[Row]:
    """Return the rows of all stages, with their stage's number."""
    return [replace(row, stage=i) for i, stage in enumerate(stages) for row in stage]


def groups(rows: list[Row], side_by_side: int) -> list[list[Row]]:
    """Split the rows, in their order, into groups that train on the same batches: of one stage, at most
    ``side_by_side``, and no student beside its teacher."""
    result: list[list[Row]] = []
    teachers = {row.run.distill.teacher for row in rows}
    for row in rows:
        last = result[-1] if result else []
        fits = last and last[0].stage == row.stage and not differences(last[0].run, row.run)
        if fits and len(last) < side_by_side and last[0].run.folder not in teachers:
            last.append(row)
        else:
            result.append([row])
    return result
