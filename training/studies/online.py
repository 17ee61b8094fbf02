# SPDX-License-Identifier: Apache-2.0
"""The rows of the online distillation study: plain students, branches that teach each other, and controls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..config import RunConfig
from ..export.network import cost
from ..families import family_of, make_network
from ..losses.distill import DistillConfig
from ..losses.online import OnlineConfig
from ..models.aggregation import Aggregation
from ..models.heatmap import HeatmapConfig, Unbalanced, hourglass, light, okdhp_hourglass
from ..models.keypoint import NetworkConfig
from .variant import Row, Variant, in_stages

LIGHT = ("mobilenetv2", "shufflenetv2")  # the lightest first, on which the paper gains most
ALONE, ENSEMBLE = OnlineConfig(), OnlineConfig("ensemble")
TRANSPORT = 2.0  # weight with which the gradient of transport between maps is about as large as the task's


def branched(
    aggregation: Aggregation = "fau-slim",
    online: OnlineConfig = ENSEMBLE,
    weight: float = 0.05,
    branches: int = 3,
    unbalanced: Unbalanced | None = None,
) -> Callable[[RunConfig], RunConfig]:
    """Return a function that changes a plain student's run to branches that learn from each other.

    weight: of the term ``online``, chosen so that its gradient is about as large as that of the KL at
    temperature 0.1 with a weight of 0.05.
    """

    def change(student: RunConfig) -> RunConfig:
        like = heatmap_network(student)
        shape = light(like.backbone, branches, unbalanced, like.widths[0])
        network = replace(like, depths=shape.depths, widths=shape.widths, aggregation=aggregation)
        weights = replace(student.weights, online=weight)
        return replace(student, network=network, online=online, weights=weights)

    return change


PLAIN = Variant("plain", branched("none", ALONE, branches=1))
OKDHP = Variant("okdhp", branched())
FIRST = (
    PLAIN,
    Variant("mean of branches", branched("mean")),
    OKDHP,
    Variant("okdhp, unbalanced in depth", branched(unbalanced="depth")),
    Variant("okdhp, unbalanced in width", branched(unbalanced="width")),
)
RELEASED = OnlineConfig("ensemble", temperature=1.0, released=True)
CONTROLS = (
    Variant("dml", branched("none", OnlineConfig("peers"))),
    Variant("one", branched("one")),
    Variant("okdhp, fau as published", branched("fau")),
    Variant("okdhp, released form", branched("fau", RELEASED, 2.0)),
    Variant("branches alone", branched(online=ALONE)),
)
NEW = (
    Variant("okdhp, transport", branched(online=OnlineConfig("ensemble", "transport"), weight=TRANSPORT)),
    Variant("okdhp, l2", branched(online=OnlineConfig("ensemble", "l2"), weight=2.0)),
    Variant("okdhp, temperature 1", branched(online=OnlineConfig("ensemble", temperature=1.0), weight=2.0)),
)


def online_rows(
    student: RunConfig,
    seeds: int,
    floor: float,
    backbones: tuple[str, ...] = LIGHT,
    votes: RunConfig | None = None,
    locator: Path | None = None,
    hourglasses: bool = True,
) -> list[Row]:
    """Return the table's rows, the most important first: the main variants on all backbones; their other
    seeds; controls; new variants; hourglasses; last FPD with its 8-stack teacher.

    student: a plain student's run; the other networks have its classes, keypoints and width. votes: a plain
    run of the keypoint family, which gets branches in the same way. locator: run whose bundle finds the
    objects; without one, the networks are given the true boxes.
    """
    students = [on_backbone(student, backbone) for backbone in backbones]
    stages = [[each.row(s, seed) for each in FIRST] for seed in range(max(seeds, 1)) for s in students]
    stages += [[each.row(s) for each in CONTROLS] for s in students]
    stages += [[equal_compute(s)] for s in students]
    stages += [[each.row(s) for each in NEW] for s in students]
    stages += [[then_adlp(s, floor)] for s in students]
    if votes:
        stages += [vote_rows(votes, seed) for seed in range(seeds)]
    if hourglasses:
        stages += [hourglass_rows(student), *fpd_stages(student, students, floor)]
    rows = in_stages(stages)
    return [row if family_of(row.run).searches else replace(row, locator=locator) for row in rows]


def heatmap_network(student: RunConfig) -> HeatmapConfig:
    """Return the network of a run of the heatmap family."""
    assert isinstance(student.network, HeatmapConfig)
    return student.network


def on_backbone(student: RunConfig, backbone: str) -> RunConfig:
    """Return the plain student's run on another light backbone."""
    like = heatmap_network(student)
    network = light(backbone, width=like.widths[0], classes=like.classes, keypoints=like.keypoints)
    return replace(student, name=f"{student.name}-{backbone}", network=network)


def equal_compute(student: RunConfig) -> Row:
    """Return plain training for so many steps that it costs as many FLOPs as OKDHP."""
    plain, branches = (make_network(each.run(student).network) for each in (PLAIN, OKDHP))
    times = cost(branches, student.input_size, True)[1] / cost(plain, student.input_size)[1]
    longer = Variant(
        "plain, equal compute", lambda run: replace(PLAIN.change(run), steps=round(times * run.steps))
    )
    return longer.row(student)


def then_adlp(student: RunConfig, floor: float) -> Row:
    """Return a plain student that learns, by ADLP's transport, from the ensemble of the trained OKDHP run."""
    distill = DistillConfig("adlp", teacher=OKDHP.run(student).folder, floor=floor)

    def change(run: RunConfig) -> RunConfig:
        plain = PLAIN.change(run)
        return replace(plain, distill=distill, weights=replace(plain.weights, kd_map=TRANSPORT))

    row = Variant("okdhp then adlp", change).row(student)
    return replace(row, method="okdhp, then adlp from its ensemble")


def vote_rows(votes: RunConfig, seed: int) -> list[Row]:
    """Return the keypoint family's rows: plain, and branches whose votes are aggregated and transported."""
    online = OnlineConfig("ensemble", "transport")
    assert isinstance(votes.network, NetworkConfig)
    network = replace(votes.network, branches=3, aggregation="fau-slim")
    plain = replace(votes, name=f"{votes.name}-plain-{seed}", seed=seed)
    branches = replace(plain, name=f"{votes.name}-online-{seed}", network=network, online=online)
    return [Row("votes: plain", plain), Row("votes: online adlp", branches)]


def hourglass_rows(student: RunConfig) -> list[Row]:
    """Return rows of 2 and 4 stacks, plain and with balanced or unbalanced branches."""
    return [
        stacked(student, "2 stacks, plain", hourglass, 2),
        stacked(student, "2 stacks, okdhp", okdhp_hourglass, 2, ENSEMBLE),
        stacked(student, "4 stacks, plain", hourglass, 4),
        stacked(student, "4 stacks, okdhp", okdhp_hourglass, 4, ENSEMBLE),
        stacked(student, "4 stacks, okdhp unbalanced", okdhp_hourglass, 4, ENSEMBLE, unbalanced=True),
    ]


def stacked(
    student: RunConfig,
    name: str,
    make: Callable[..., HeatmapConfig],
    stacks: int,
    online: OnlineConfig = ALONE,
    **options,
) -> Row:
    """Return a row with an hourglass for the student's objects."""
    like = heatmap_network(student)
    network = make(stacks, classes=like.classes, keypoints=like.keypoints, **options)
    variant = Variant(name, lambda run: replace(run, network=network, online=online))
    return variant.row(replace(student, name=f"{student.name}-hourglass"))


def fpd_stages(student: RunConfig, students: list[RunConfig], floor: float) -> list[list[Row]]:
    """Return Fast Pose Distillation (Zhang et al. 2019): a frozen teacher of 8 stacks, and students whose
    loss is half the error against the truth and half the error against the teacher's maps."""
    teacher = stacked(student, "8 stacks", hourglass, 8)
    distill = DistillConfig("naive", teacher=teacher.run.folder, floor=floor)

    def change(run: RunConfig) -> RunConfig:
        plain = PLAIN.change(run)
        weights = replace(run.weights, heatmap=0.5, kd_map=0.5)
        return replace(plain, weights=weights, distill=distill)

    fpd = Variant("fpd", change)
    named = replace(teacher, method="8 stacks, plain (fpd's teacher)")
    return [[named], [fpd.row(each) for each in students]]
