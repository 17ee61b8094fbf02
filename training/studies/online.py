"""What a table of online distillation consists of: plain students, branches that teach each other, and their
controls, in the order in which they count."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, replace
from pathlib import Path

from ..config import LossWeights, RunConfig
from ..export.network import cost
from ..losses.distill import DistillConfig
from ..losses.online import OnlineConfig
from ..models.heatmap import HeatmapConfig, light, okdhp_hourglass
from ..models.heatmap import hourglass as plain_hourglass
from ..models.network import make_network
from .plan import Row

LIGHT = ("mobilenetv2", "shufflenetv2")  # first: the paper gains most on the lightest
OTHERS = ("resnet18", "darknet-tiny")
ALONE, ENSEMBLE = OnlineConfig(), OnlineConfig("ensemble")


@dataclass(frozen=True)
class Way:
    """One way to train a backbone: a name in the table, the network's branches and who teaches them."""

    name: str
    branches: int = 3
    unbalanced: str | None = None
    aggregation: str = "none"
    online: OnlineConfig = ALONE
    weight: float = 0.05
    """Of what is taught; where another alignment pulls as hard as the KL at temperature 0.1."""

    def network(self, backbone: str, like: HeatmapConfig) -> HeatmapConfig:
        """For the objects and with the deployed branch of ``like``."""
        made = light(backbone, branches=self.branches, unbalanced=self.unbalanced, width=like.widths[0])
        return replace(made, aggregation=self.aggregation, classes=like.classes, keypoints=like.keypoints)

    def of(self, student: RunConfig, backbone: str, seed: int) -> RunConfig:
        """The student's run, trained in this way."""
        network = self.network(backbone, student.network)
        name = run_name(student, backbone, self.name, seed)
        weights = replace(student.weights, online=self.weight)
        return replace(student, name=name, network=network, online=self.online, weights=weights, seed=seed)


def run_name(student: RunConfig, backbone: str, way: str, seed: int) -> str:
    return f"{student.name}-{backbone}-{re.sub('[^A-Za-z0-9.]+', '_', way)}-{seed}"


PLAIN = Way("plain", branches=1)
OKDHP = Way("okdhp", aggregation="fau-slim", online=ENSEMBLE)
FIRST = (
    PLAIN,
    Way("mean of branches", aggregation="mean", online=ENSEMBLE),
    OKDHP,
    replace(OKDHP, name="okdhp, unbalanced in depth", unbalanced="depth"),
    replace(OKDHP, name="okdhp, unbalanced in width", unbalanced="width"),
)
RELEASED = OnlineConfig("ensemble", temperature=1.0, released=True)
CONTROLS = (
    Way("dml", online=OnlineConfig("peers")),
    Way("one", aggregation="one", online=ENSEMBLE),
    replace(OKDHP, name="okdhp, fau as published", aggregation="fau"),
    replace(OKDHP, name="okdhp, released form", aggregation="fau", online=RELEASED, weight=2.0),
    replace(OKDHP, name="branches alone", online=ALONE),
)
TRANSPORT = 2.0  # weight with which transport between maps pulls about as hard as the truth
NEW = (
    replace(OKDHP, name="okdhp, transport", online=OnlineConfig("ensemble", "transport"), weight=TRANSPORT),
    replace(OKDHP, name="okdhp, l2", online=OnlineConfig("ensemble", "l2"), weight=2.0),
    replace(OKDHP, name="okdhp, temperature 1", online=OnlineConfig("ensemble", temperature=1.0), weight=2.0),
)


def online_plan(
    student: RunConfig,
    seeds: int,
    floor: float,
    backbones: tuple[str, ...] = LIGHT,
    votes: RunConfig | None = None,
    locator: Path | None = None,
    hourglasses: bool = True,
) -> list[Row]:
    """The table's rows: what counts first on the backbones given; other seeds; controls; new rows; the
    hourglasses, and last FPD with its 8-stack teacher.

    student: a plain student's run; its network says for how many objects and how wide. votes: a plain run of
    the keypoint family, whose branches get the same treatment. locator: run whose bundle finds the objects;
    without one the true boxes are given.
    """
    first = [[Row(way.name, way.of(student, b, 0)) for way in FIRST] for b in backbones]
    stages = list(first)
    stages += [[Row(w.name, w.of(student, b, s)) for w in FIRST] for s in range(1, seeds) for b in backbones]
    stages += [[Row(way.name, way.of(student, b, 0)) for way in CONTROLS] for b in backbones]
    stages += [[equal_compute(student, b)] for b in backbones]
    stages += [[Row(way.name, way.of(student, b, 0)) for way in NEW] for b in backbones]
    stages += [[then_adlp(student, b, floor)] for b in backbones]
    if votes:
        stages += [[Row(way, run) for way, run in vote_runs(votes, s)] for s in range(seeds)]
    if hourglasses:
        stages += [[Row(way, run) for way, run in hourglass_runs(student)]]
        stages += fpd(student, backbones, floor)
    rows = [replace(row, stage=i, locator=locator) for i, stage in enumerate(stages) for row in stage]
    rows = [replace(r, locator=None) if r.run.network.family == "keypoint" else r for r in rows]
    return [replace(row, place=place) for place, row in enumerate(rows)]


def equal_compute(student: RunConfig, backbone: str) -> Row:
    """Plain training for as many steps as cost what OKDHP's do, by the networks' FLOPs."""
    plain, branches = (way.network(backbone, student.network) for way in (PLAIN, OKDHP))
    size = student.input_size
    times = cost(make_network(branches), size, True)[1] / cost(make_network(plain), size)[1]
    run = PLAIN.of(student, backbone, 0)
    name = run_name(student, backbone, "plain_equal_compute", 0)
    return Row("plain, equal compute", replace(run, name=name, steps=round(times * student.steps)))


def then_adlp(student: RunConfig, backbone: str, floor: float) -> Row:
    """A plain student that learns, by ADLP's transport, from the ensemble that OKDHP's run has ended with."""
    teacher = OKDHP.of(student, backbone, 0).folder
    run = PLAIN.of(student, backbone, 0)
    name = run_name(student, backbone, "okdhp_then_adlp", 0)
    distill = DistillConfig("adlp", teacher=teacher, floor=floor)
    weights = replace(student.weights, kd_map=TRANSPORT)
    taught = replace(run, name=name, distill=distill, weights=weights)
    return Row("okdhp, then adlp from its ensemble", taught)


def vote_runs(votes: RunConfig, seed: int) -> list[tuple[str, RunConfig]]:
    """The keypoint family: plain, and branches whose votes are aggregated and moved (online ADLP)."""
    online = OnlineConfig("ensemble", "transport")
    network = replace(votes.network, branches=3, aggregation="fau-slim")
    return [
        ("votes: plain", replace(votes, name=f"{votes.name}-plain-{seed}", seed=seed)),
        (
            "votes: online adlp",
            replace(votes, name=f"{votes.name}-online-{seed}", network=network, online=online, seed=seed),
        ),
    ]


def hourglass_runs(student: RunConfig) -> list[tuple[str, RunConfig]]:
    """2 and 4 stacks, plain and with branches, balanced and not."""
    names = {"classes": student.network.classes, "keypoints": student.network.keypoints}

    def run(name: str, network: HeatmapConfig, online: OnlineConfig = ALONE) -> tuple[str, RunConfig]:
        return name, replace(
            student, name=run_name(student, "hourglass", name, 0), network=network, online=online
        )

    return [
        run("2 stacks, plain", plain_hourglass(2, **names)),
        run("2 stacks, okdhp", okdhp_hourglass(2, **names), ENSEMBLE),
        run("4 stacks, plain", plain_hourglass(4, **names)),
        run("4 stacks, okdhp", okdhp_hourglass(4, **names), ENSEMBLE),
        run("4 stacks, okdhp unbalanced", okdhp_hourglass(4, unbalanced=True, **names), ENSEMBLE),
    ]


def fpd(student: RunConfig, backbones: tuple[str, ...], floor: float) -> list[list[Row]]:
    """Fast Pose Distillation (Zhang et al. 2019): a frozen teacher of 8 stacks, and half of the error against
    its maps."""
    network = student.network
    teacher = replace(
        student,
        name=run_name(student, "hourglass", "8 stacks", 0),
        network=plain_hourglass(8, classes=network.classes, keypoints=network.keypoints),
    )
    weights: LossWeights = dataclasses.replace(student.weights, heatmap=0.5, kd_map=0.5)
    distill = DistillConfig("naive", teacher=teacher.folder, floor=floor)
    students = [
        Row(
            "fpd",
            replace(
                PLAIN.of(student, b, 0),
                name=run_name(student, b, "fpd", 0),
                weights=weights,
                distill=distill,
            ),
        )
        for b in backbones
    ]
    return [[Row("8 stacks, plain (fpd's teacher)", teacher)], students]
