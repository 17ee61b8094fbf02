"""A table of distillation methods, unattended: one teacher, then students that differ in nothing but the
method.

Every row is trained, exported and measured in turn, in the order in which rows matter. It may be stopped at
any time, by Ctrl-C or by ``minutes``, and goes on with the same call; rows not reached read "not run".
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
import signal
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from pose_kd_ros.bundle.store import open_bundle
from pose_kd_ros.evaluation.bop_run import add_recalls, figures
from pose_kd_ros.pipeline.estimator import Estimator
from pose_kd_ros.pipeline.network import load_network

from .config import RunConfig
from .evaluate import measure, rounded
from .export import commit, export_run
from .losses.distill import DistillConfig
from .render.files import write_whole
from .train import Stopped, train

FIGURES = "figures.json"  # in a row's run: what was measured, one entry a test split


@dataclass(frozen=True)
class Column:
    """One way to teach: a name in the table and how it changes the student's run."""

    name: str
    distill: DistillConfig
    times_steps: int = 1


def columns(teacher: Path, floor: float) -> list[Column]:
    """All methods, the ones that count first."""

    def taught(name: str, **options) -> Column:
        return Column(name, DistillConfig(**{"method": "adlp", "teacher": teacher, "floor": floor} | options))

    return [
        Column("none", DistillConfig()),
        taught("adlp"),
        taught("naive", method="naive"),
        taught("fkd", method="fkd"),
        taught("adlp, released form", mass="score", rho=0.25, eps=1e-6),
        taught("adlp+fkd", method="adlp+fkd"),
        taught("adlp, uncertainty", uncertainty=True),
        Column("none, 2x steps", DistillConfig(), 2),
    ]


@dataclass(frozen=True)
class Row:
    """A run of the table and what its row says of it."""

    method: str
    run: RunConfig


def plan(teacher: RunConfig, student: RunConfig, seeds: int, floor: float) -> list[Row]:
    """The teacher; none and adlp, then these two with the other seeds; then the other methods."""
    ways = columns(teacher.folder, floor)

    def row(way: Column, seed: int) -> Row:
        name = f"{student.name}-{way.name}-{seed}".replace(", ", "_").replace(" ", "_").replace("+", "_")
        run = dataclasses.replace(
            student, name=name, distill=way.distill, seed=seed, steps=student.steps * way.times_steps
        )
        return Row(way.name, run)

    first = [row(way, seed) for seed in range(seeds) for way in ways[:2]]
    return [Row("teacher", teacher), *first, *(row(way, 0) for way in ways[2:])]


def make_table(rows: list[Row], out: Path, test: list[Path], val_images: int, minutes: float) -> bool:
    """Do what is left to do of the rows for so many ``minutes`` and write ``out`` after each; returns whether
    all are there.

    test: BOP splits to measure on, each a row of its own.
    """
    with time_limit(minutes):
        try:
            for index, row in enumerate(rows):
                print(f"[{index + 1}/{len(rows)}] {row.run.name}", flush=True)
                if not (row.run.folder / FIGURES).exists():
                    train(row.run)
                    keep(row.run.folder / FIGURES, measured(row, test, val_images))
                write(rows, out, test)
        except (Stopped, KeyboardInterrupt) as reason:
            print(f"stopped: {reason or 'Ctrl-C'}; the same command goes on", flush=True)
            write(rows, out, test)
            return False
    return True


@contextmanager
def time_limit(minutes: float):
    """Ctrl-C after so many minutes; 0 for none."""
    timer = threading.Timer(60 * minutes, os.kill, (os.getpid(), signal.SIGINT)) if minutes else None
    if timer:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        if timer:
            timer.cancel()


def measured(row: Row, test: list[Path], val_images: int) -> list[dict]:
    """Export the run, which fits its score on half of ``val_images``; its figures on each split."""
    bundle = row.run.folder / "bundle"
    export_run(row.run.folder, bundle, {}, 320, val_images)
    opened = open_bundle(bundle)
    estimator = Estimator(opened, load_network(opened, threads=2))
    network = opened.manifest.network
    about = {
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "hardware": hardware(),
        "parameters": network.parameters,
        "gflop": network.gflop,
    }
    result = []
    for split in test:
        groups, images, seconds = measure(estimator, split)
        result.append(about | rounded(figures(groups, images, seconds) | add_recalls(groups)))
    return result


def hardware() -> str:
    """The machine that trains, in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {os.cpu_count()} cores"


def write(rows: list[Row], out: Path, test: list[Path]) -> None:
    """The whole table, with what is there so far."""
    content = []
    for row in rows:
        path = row.run.folder / FIGURES
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else [None] * len(test)
        content += [as_row(row, split, values) for split, values in zip(test, found)]
    keep(out, content)


def as_row(row: Row, split: Path, values: dict | None) -> dict:
    """A row of docs/results: the common keys, then the figures."""
    run = row.run
    synthetic = (split / "render.json").exists()
    about = {
        "name": f"{row.method}, seed {run.seed}",
        "method": row.method,
        "network": f"{run.network.backbone}, width {run.network.width}, depth {run.network.depth}",
        "family": "keypoint",
        "dataset": f"{split.parent.name}/{split.name}",
        "split": "synthetic" if synthetic else "real",
        "seed": run.seed,
        "steps": run.steps,
        "status": "not run" if values is None else "measured",
        "date": "",
        "commit": "",
        "hardware": "",
    }
    return about | (values or {})


def keep(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(content, indent=1) + "\n")
