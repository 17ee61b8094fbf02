"""A table of distillation methods, unattended: a teacher, and students that differ in the method alone.

Rows are trained, several side by side, exported and measured in the order in which they matter
(``studies.plan``). It may be stopped at any time, by Ctrl-C or by ``minutes``, and goes on with the same
call; rows not reached read "not run".
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import signal
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from pose_kd_ros.bundle.store import open_bundle
from pose_kd_ros.evaluation.bop_run import add_recalls, figures
from pose_kd_ros.pipeline.estimator import Estimator
from pose_kd_ros.pipeline.families import make_estimator
from pose_kd_ros.pipeline.network import load_network
from pose_kd_ros.pipeline.regional import RegionalEstimator

from ..export.manifest import commit
from ..export.run import export_run
from ..fit.learner import cost_so_far
from ..fit.train import Stopped, train_together
from ..measure.evaluate import measure, rounded
from ..models.dense import DenseConfig
from ..models.heatmap import HeatmapConfig
from ..models.network import NetworkConfig
from ..render.files import write_whole
from .plan import Row, groups

FIGURES = "figures.json"  # in a row's run: what was measured, one entry a test split


def make_table(
    rows: list[Row],
    out: Path,
    test: list[Path],
    val_images: int,
    minutes: float,
    side_by_side: int = 1,
    together: bool = False,
    in_all: int = 0,
    real: str = "real",
) -> bool:
    """Do what is left to do of the rows for so many ``minutes`` and write ``out`` after each group that
    trains side by side; returns whether all are there.

    test: BOP splits to measure on, each a row of its own. together: teachers are trained along. in_all, real:
    see ``write``.
    """
    parts = groups(rows, side_by_side, together)
    with time_limit(minutes):
        try:
            for index, group in enumerate(parts):
                print(f"[{index + 1}/{len(parts)}] {', '.join(row.run.name for row in group)}", flush=True)
                do(group, test, val_images)
                write(rows, out, test, in_all, real)
        except (Stopped, KeyboardInterrupt) as reason:
            why = str(reason) or "Ctrl-C, or the minutes are up"  # outside training, in an export for example
            print(f"stopped: {why}; the same command goes on", flush=True)
            write(rows, out, test, in_all, real)
            return False
    return True


def do(group: list[Row], test: list[Path], val_images: int) -> None:
    """Train and measure what is left of a group."""
    left = [row for row in group if not (row.run.folder / FIGURES).exists()]
    teachers = {row.run.distill.teacher for row in left}
    if left:
        train_together([row.run for row in group if row in left or row.run.folder in teachers])
    for row in left:
        keep(row.run.folder / FIGURES, measured(row, test, val_images))


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
    given = row.run.network.family != "keypoint" and row.locator is None
    estimator = loaded(bundle, loaded(row.locator / "bundle") if row.locator else None)
    network = estimator.bundle.manifest.network
    about = {
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "hardware": hardware(),
        "parameters": network.parameters,
        "gflop": network.gflop,
    } | cost_so_far(row.run.folder)
    result = []
    for split in test:
        groups, images, seconds = measure(estimator, split, given_boxes=given)
        found = (
            figures(groups, images, seconds) | add_recalls(groups) | ({"given_boxes": 1.0} if given else {})
        )
        result.append(about | rounded(found))
    return result


def loaded(bundle: Path, locator: Estimator | None = None) -> Estimator | RegionalEstimator:
    opened = open_bundle(bundle)
    return make_estimator(opened, load_network(opened, threads=2), locator)


def hardware() -> str:
    """The machine that trains, in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {os.cpu_count()} cores"


def write(rows: list[Row], out: Path, test: list[Path], in_all: int = 0, real: str = "real") -> None:
    """The whole table, with what is there so far; with ``in_all``, a shard of so many rows, which keeps their
    places. real: what rows of real images call their split."""
    content, places = [], []
    for row in (row for row in rows if row.listed):
        path = row.run.folder / FIGURES
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else [None] * len(test)
        content += [as_row(row, split, values, real) for split, values in zip(test, found)]
        places += [(row.place, index) for index in range(len(test))]
    shard = {"rows_in_all": in_all * len(test), "rows": list(zip(places, content))}
    keep(out, shard if in_all else with_means(content))


def with_means(rows: list[dict]) -> list[dict]:
    """The rows, and after them one for each kind of which several seeds are measured: the mean of each
    figure that all have, its standard deviation as ``..._std``, and ``seeds``, their number."""
    kinds: dict[tuple, list[dict]] = {}
    for row in rows:
        if row["status"] == "measured":
            kind = tuple(row[key] for key in ("method", "network", "family", "dataset", "steps"))
            kinds.setdefault(kind, []).append(row)
    return rows + [mean_row(several) for several in kinds.values() if len(several) > 1]


def mean_row(rows: list[dict]) -> dict:
    about = {key: value for key, value in rows[0].items() if not isinstance(value, float)}
    names = [n for n, v in rows[0].items() if isinstance(v, float) and all(n in row for row in rows)]
    values = {name: np.array([row[name] for row in rows]) for name in names}
    figures = {name: float(f"{v.mean():.6g}") for name, v in values.items()}
    spread = {f"{name}_std": float(f"{v.std(ddof=1):.6g}") for name, v in values.items()}
    seeds = [row["seed"] for row in rows]
    kind = rows[0]["name"].rpartition(", seed ")[0]
    named = {"name": f"{kind}, mean of {len(rows)} seeds", "seed": ", ".join(map(str, seeds))}
    return about | named | figures | spread | {"seeds": len(rows)}


def described(network: NetworkConfig | DenseConfig | HeatmapConfig) -> str:
    """The deployed network in words; of a heatmap network in training also its branches."""
    if network.family == "heatmap":
        stacks = f"{network.shared + network.depths[0]} stacks, " if network.backbone == "hourglass" else ""
        count = len(network.depths)
        branches = f", {count} branches" if count > 1 else ""
        return f"{network.backbone}, {stacks}width {network.widths[0]}{branches}"
    depth = f", depth {network.depth}" if network.family == "keypoint" else ""
    return f"{network.backbone}, width {network.width}{depth}"


def as_row(row: Row, split: Path, values: dict | None, real: str) -> dict:
    """A row of docs/results: the common keys, then the figures."""
    run = row.run
    synthetic = (split / "render.json").exists()
    about = {
        "name": f"{run.network.family}, {described(run.network)}: {row.method}, seed {run.seed}",
        "method": row.method,
        "network": described(run.network),
        "family": run.network.family,
        "dataset": f"{split.parent.name}/{split.name}",
        "split": "synthetic" if synthetic else real,
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
