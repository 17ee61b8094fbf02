"""What is measured is what flies: an exported bundle through the robot's estimator, on renders or real
images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pose_kd_ros.bundle.store import Bundle, open_bundle
from pose_kd_ros.evaluation.bop import BopDataset, load_models_info, load_ply_vertices
from pose_kd_ros.evaluation.bop_run import Group, compare, cut, false_alarm_scores, figures, run
from pose_kd_ros.pipeline.estimator import Estimator
from pose_kd_ros.pipeline.network import load_network

ALARMS_PER_IMAGE = 1 / 200  # the score threshold is chosen so that held-out renders have no more


def surface_points(split: Path, estimator: Estimator) -> dict[int, np.ndarray]:
    """Vertices (V, 3), metres, of each object's mesh in ../models (models_eval where there is one)."""
    folder = next((p for p in (split.parent / "models_eval", split.parent / "models") if p.is_dir()), split)
    load_models_info(folder / "models_info.json")
    return {i: load_ply_vertices(folder / f"obj_{i:06d}.ply") for i in estimator.objects}


def measure(estimator: Estimator, split: Path, limit: int = 0) -> tuple[list[Group], int, list[float]]:
    """Run the estimator over a split; returns groups, number of images, seconds per image."""
    images = BopDataset(split).images[: limit or None]
    points = surface_points(split, estimator)
    groups, seconds = [], []
    for image, width, poses, spent in run(estimator, tqdm(images, desc=str(split), unit="img")):
        groups += compare(image, width, poses, estimator, points)
        seconds.append(spent)
    return groups, len(images), seconds


def choose(bundle: Bundle, split: Path, limit: int) -> tuple[float, dict[str, float]]:
    """Return the lowest pose_score with at most ALARMS_PER_IMAGE false alarms on a split, and the figures."""
    estimator = Estimator(bundle, load_network(bundle, threads=1), pose_score=0.0)
    groups, images, seconds = measure(estimator, split, limit)
    false = np.sort(false_alarm_scores(groups))[::-1]
    allowed = int(images * ALARMS_PER_IMAGE)
    threshold = round(float(false[allowed]) + 0.005, 2) if len(false) > allowed else 0.1
    return threshold, rounded(figures([cut(g, threshold) for g in groups], images, seconds))


def rounded(values: dict[str, float]) -> dict[str, float]:
    """Six digits say all a measurement can; what is not a number (a median of nothing) is left out."""
    return {name: float(f"{value:.6g}") for name, value in values.items() if np.isfinite(value)}


def evaluate_command(bundle: Path, split: Path, limit: int, out: Path | None) -> None:
    """Measure, print, and write the figures."""
    opened = open_bundle(bundle)
    values = rounded(figures(*measure(Estimator(opened, load_network(opened)), split, limit)))
    for name, value in values.items():
        print(f"{name:28s} {value:g}")
    if out:
        out.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
