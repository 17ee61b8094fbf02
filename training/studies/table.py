# SPDX-License-Identifier: Apache-2.0
"""Fill a study's table unattended: train its rows, several side by side, export and measure them.

It may be stopped at any time, by Ctrl-C or by ``minutes``, and continues with the same call. The file holds
the rows that are measured so far.
"""

from __future__ import annotations

import datetime
import json
import os
import signal
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from pose_kd_ros.bundle.store import open_bundle
from pose_kd_ros.evaluation.metrics import add_recalls, figures
from pose_kd_ros.pipeline.estimator import Estimator
from pose_kd_ros.pipeline.families import make_estimator
from pose_kd_ros.pipeline.keypoint import KeypointEstimator
from pose_kd_ros.pipeline.network import load_network
from pose_kd_ros.pipeline.people import PeopleEstimator
from pose_kd_ros.provenance import commit, processor, write_whole

from ..export.run import export_run
from ..families import family_of
from ..fit.learner import cost_so_far
from ..fit.train import Stopped, train_together
from ..measure.evaluate import measure, rounded
from .variant import Row, groups

FIGURES = "figures.json"  # in a row's run: the measured figures, one entry for each test split


def make_table(
    rows: list[Row],
    out: Path,
    test: list[Path],
    val_images: int,
    minutes: float,
    side_by_side: int = 1,
    real: str = "real",
) -> bool:
    """Train and measure the rows that are left, for at most so many ``minutes``, and write ``out`` after each
    group that trains side by side; return whether all are measured.

    test: BOP splits to measure on; each gives a row. real: see ``write``.
    """
    parts = groups(rows, side_by_side)
    with time_limit(minutes):
        try:
            for index, group in enumerate(parts):
                print(f"[{index + 1}/{len(parts)}] {', '.join(row.run.name for row in group)}", flush=True)
                train_and_measure(group, test, val_images)
                write(rows, out, test, real)
        except (Stopped, KeyboardInterrupt) as reason:
            why = str(reason) or "Ctrl-C, or the minutes are up"  # outside training, in an export for example
            print(f"stopped: {why}; the same command goes on", flush=True)
            write(rows, out, test, real)
            return False
    return True


def train_and_measure(group: list[Row], test: list[Path], val_images: int) -> None:
    """Train and measure the rows of a group that are left."""
    left = [row for row in group if not (row.run.folder / FIGURES).exists()]
    if left:
        train_together([row.run for row in left])
    for row in left:
        write_json(row.run.folder / FIGURES, measured(row, test, val_images))


@contextmanager
def time_limit(minutes: float):
    """Send Ctrl-C after so many minutes; 0 for none."""
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
    """Export the run, which fits its score on half of ``val_images``; return the figures on each test
    split."""
    bundle = row.run.folder / "bundle"
    export_run(row.run.folder, bundle, {}, 320, val_images)
    given = not family_of(row.run).searches and row.locator is None
    estimator = loaded(bundle, row.locator / "bundle" if row.locator else None)
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
        found = figures(groups, images, seconds) | add_recalls(groups)
        result.append(about | rounded(found | ({"given_boxes": 1.0} if given else {})))
    return result


def loaded(folder: Path, locator: Path | None = None) -> Estimator:
    """Return the estimator of the bundle in ``folder``; locator: folder of the keypoint bundle that
    searches."""
    finder = loaded(locator) if locator else None
    assert finder is None or isinstance(finder, KeypointEstimator)
    bundle = open_bundle(folder)
    estimator = make_estimator(bundle, load_network(bundle, threads=2), finder)
    assert not isinstance(estimator, PeopleEstimator)  # the studies are about objects
    return estimator


def hardware() -> str:
    """Return the name of the GPU or processor that trains."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return processor()


def write(rows: list[Row], out: Path, test: list[Path], real: str = "real") -> None:
    """Write the rows that are measured. real: what rows of real images state as their split."""
    content = []
    for row in rows:
        path = row.run.folder / FIGURES
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        content += [as_row(row, split, values, real) for split, values in zip(test, found)]
    write_json(out, with_means(content))


def with_means(rows: list[dict]) -> list[dict]:
    """Return the rows and, after them, a row for each kind that was measured with several seeds: the mean of
    each figure that all have, its standard deviation as ``..._std``, and ``seeds``, their number."""
    kinds: dict[tuple, list[dict]] = {}
    for row in rows:
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


def as_row(row: Row, split: Path, values: dict, real: str) -> dict:
    """Return a row of docs/results: the common keys, then the figures.

    values: date, commit, hardware and figures.
    """
    run = row.run
    network = family_of(run).describe_network(run.network)
    synthetic = (split / "render.json").exists()
    about = {
        "name": f"{run.network.family}, {network}: {row.method}, seed {run.seed}",
        "method": row.method,
        "network": network,
        "family": run.network.family,
        "dataset": f"{split.parent.name}/{split.name}",
        "split": "synthetic" if synthetic else real,
        "seed": run.seed,
        "steps": run.steps,
    }
    return about | values


def write_json(path: Path, content) -> None:
    """Write JSON to a file; make its folder if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(content, indent=1) + "\n")
