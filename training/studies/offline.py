"""What a table of methods consists of: its runs, in the order in which they count, and which train side by
side."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

from ..config import RunConfig
from ..fit.learner import OWN, differences
from ..losses.distill import DistillConfig
from ..models.network import NetworkConfig

PLAIN, LONGER = "none", "none, 2x steps"


@dataclass(frozen=True)
class Column:
    """One way to teach: a name in the table and how it changes the student's run."""

    name: str
    distill: DistillConfig
    times_steps: int = 1
    times_kd_vote: float = 1.0

    def of(self, student: RunConfig, seed: int) -> RunConfig:
        """The student's run, taught in this way."""
        weights = dataclasses.replace(student.weights, kd_vote=student.weights.kd_vote * self.times_kd_vote)
        name = re.sub("[^A-Za-z0-9.]+", "_", self.name)
        return dataclasses.replace(
            student,
            name=f"{student.name}-{name}-{seed}",
            distill=self.distill,
            weights=weights,
            seed=seed,
            steps=student.steps * self.times_steps,
        )


def columns(adlp: DistillConfig) -> list[Column]:
    """All methods, the ones that count first; adlp: ours, which the others are changes of."""

    def taught(name: str, **options) -> Column:
        return Column(name, dataclasses.replace(adlp, **options))

    return [
        Column(PLAIN, DistillConfig()),
        taught("adlp"),
        taught("naive", method="naive"),
        taught("fkd", method="fkd"),
        taught("adlp, released form", mass="score", rho=0.25, eps=1e-6),
        taught("adlp+fkd", method="adlp+fkd"),
        taught("adlp, uncertainty", uncertainty=True),
        Column(LONGER, DistillConfig(), 2),
    ]


def ablations(adlp: DistillConfig) -> list[Column]:
    """One change each of ours: what its defaults rest on."""

    def changed(name: str, times: float = 1.0, **options) -> Column:
        return Column(f"adlp, {name}", dataclasses.replace(adlp, **options), times_kd_vote=times)

    return [
        changed("mass score", mass="score", rho=0.25),
        changed("eps 1e-3", eps=1e-3),
        changed("eps 1e-5", eps=1e-5),
        changed("kd_vote x0.3", 0.3),
        changed("kd_vote x3", 3.0),
        changed("teacher_score 0.01", teacher_score=0.01),
        changed("teacher_score 0.3", teacher_score=0.3),
        changed("ramp 0.3", lead=0.0, ramp=0.3),
        changed("lead 0.3", lead=0.3, ramp=0.0),
    ]


@dataclass(frozen=True)
class Row:
    """A run of the table and what its row says of it. Rows of one stage count alike; a teacher that is there
    for its students alone is not listed."""

    method: str
    run: RunConfig
    stage: int = 0
    listed: bool = True
    place: int = 0
    locator: Path | None = None
    """Run whose bundle finds the objects for a row of a family that looks where it is told."""


def plan(
    teacher: RunConfig,
    student: RunConfig,
    seeds: int,
    floor: float,
    others: tuple[tuple[str, NetworkConfig], ...] = (),
    dense: tuple[Row, ...] = (),
    together: bool = False,
) -> list[Row]:
    """The table's rows in the order in which they count: the teacher, none and adlp; these two with the other
    seeds; the other methods; the dense family; the other networks; ablations; the other methods' other seeds.

    others: names and networks of further students, which take all methods with one seed. dense: rows of the
    other family, its teacher first. together: every stage has a teacher of its own, which is trained along
    with its students and on their cells: the same one each time, since what it learns depends on its seed
    alone.
    """
    adlp = DistillConfig("adlp", teacher=teacher.folder, floor=floor)
    if together:
        adlp = dataclasses.replace(adlp, lead=0.3, ramp=0.2)
        student = dataclasses.replace(student, name=f"{student.name}-along")
        teacher = _along(teacher, student)
    ways = columns(adlp)
    more = [dataclasses.replace(student, name=f"{student.name}-{n}", network=net) for n, net in others]
    stages = [
        *(_stage(ways[:2], student, seed) for seed in range(seeds)),
        _stage(ways[2:], student, 0),
        list(dense),
        *(_stage(ways, run, 0) for run in more),
        _stage(ablations(adlp), student, 0),
        *(_stage(ways[2:], student, seed) for seed in range(1, seeds)),
    ]
    if together:
        stages = [
            s if s == list(dense) else _with_teacher(teacher, s, i, i < seeds) for i, s in enumerate(stages)
        ]
    else:
        stages.insert(0, [Row("teacher", teacher)])
    rows = [dataclasses.replace(row, stage=i) for i, stage in enumerate(stages) for row in stage]
    return [dataclasses.replace(row, place=place) for place, row in enumerate(rows)]


def dense_rows(
    teacher: RunConfig, student: RunConfig, floor: float, locator: Path | None = None
) -> tuple[Row, ...]:
    """The dense family's rows: teacher, none, adlp, naive. locator: run whose bundle finds the objects for
    them; without one they are given the true boxes."""
    adlp = DistillConfig("adlp", teacher=teacher.folder, floor=floor)
    rows = [Row("teacher", teacher), *_stage(columns(adlp)[:3], student, 0)]
    return tuple(dataclasses.replace(row, locator=locator) for row in rows)


def _stage(ways: list[Column], student: RunConfig, seed: int) -> list[Row]:
    return [Row(way.name, way.of(student, seed)) for way in ways]


def _along(teacher: RunConfig, student: RunConfig) -> RunConfig:
    """The teacher as it is trained beside the student: what they share is the student's."""
    own = {name: getattr(teacher, name) for name in OWN - {"steps"}}
    network = dataclasses.replace(teacher.network, levels=student.network.levels)
    return dataclasses.replace(student, **own | {"name": f"{teacher.name}-along", "network": network})


def _with_teacher(teacher: RunConfig, students: list[Row], index: int, listed: bool) -> list[Row]:
    """A stage with the teacher that it is taught by."""
    seed = students[0].run.seed
    teacher = dataclasses.replace(teacher, name=f"{teacher.name}-{seed}-{index}", seed=seed)

    def taught(run: RunConfig) -> RunConfig:
        if run.distill.method == "none":
            return run
        return dataclasses.replace(run, distill=dataclasses.replace(run.distill, teacher=teacher.folder))

    rows = [dataclasses.replace(row, run=taught(row.run)) for row in students]
    return [Row("teacher", teacher, listed=listed), *rows]


def groups(rows: list[Row], side_by_side: int, together: bool = False) -> list[list[Row]]:
    """The rows, in their order, in groups that train side by side: of one stage, on the same batches, at most
    so many at a time; a whole stage with its teacher where that is trained along, as it is not for the dense
    family."""
    result: list[list[Row]] = []
    teachers = {row.run.distill.teacher for row in rows}
    for row in rows:
        last = result[-1] if result else []
        fits = last and last[0].stage == row.stage and not differences(last[0].run, row.run)
        along = together and row.run.network.family == "keypoint"
        if fits and (along or (len(last) < side_by_side and last[0].run.folder not in teachers)):
            last.append(row)
        else:
            result.append([row])
    return result


def cut(rows: list[Row], shard: tuple[int, int], side_by_side: int, together: bool) -> list[Row]:
    """The rows of shard (i, n): every n-th group. Teachers and locators that they wait for come with them,
    not listed but in shard 0: no shard needs another."""
    index, count = shard
    all_groups = groups(rows, side_by_side, together)
    taught_by = {row.run.distill.teacher for row in rows}
    alone = [g for g in all_groups if len(g) == 1 and g[0].run.folder in taught_by]
    chosen = [g for g in all_groups if g not in alone][index::count]
    wanted = {run for group in chosen for row in group for run in (row.run.distill.teacher, row.locator)}
    kept = [
        dataclasses.replace(row, listed=row.listed and index == 0)
        for (row,) in alone
        if index == 0 or row.run.folder in wanted
    ]
    taken = [*kept, *(row for group in chosen for row in group)]
    here = {row.run.folder for row in taken}
    brought = [row for row in rows if row.run.folder in wanted - here]  # teachers that train beside others
    taken += [dataclasses.replace(row, listed=False) for row in brought]
    return sorted(taken, key=lambda row: row.place)
