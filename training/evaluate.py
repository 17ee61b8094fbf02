"""What is measured is what flies: an exported bundle through the robot's estimator, on renders or real
images."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from scipy.optimize import minimize
from tqdm import tqdm

from pose_kd_ros.bundle.manifest import DecodeSpec
from pose_kd_ros.bundle.store import Bundle, open_bundle
from pose_kd_ros.evaluation.bop import BopDataset, Faults, OnFault
from pose_kd_ros.evaluation.bop_folder import surface_points
from pose_kd_ros.evaluation.bop_run import (
    Group,
    add_recalls,
    compare,
    cut,
    false_alarm_scores,
    figures,
    rescored,
    run,
)
from pose_kd_ros.pipeline.estimator import Estimator
from pose_kd_ros.pipeline.families import make_estimator
from pose_kd_ros.pipeline.network import load_network
from pose_kd_ros.pipeline.regional import RegionalEstimator

ALARMS_PER_IMAGE = 1 / 100  # the score threshold is chosen so that held-out renders have no more


def measure(
    estimator: Estimator | RegionalEstimator,
    split: Path,
    limit: int = 0,
    first: int = 0,
    on_fault: OnFault = "refuse",
    given_boxes: bool = False,
) -> tuple[list[Group], int, list[float]]:
    """Run the estimator over ``limit`` images (0: all) of a split; returns groups, images, seconds per
    image.

    on_fault: raise BopError for an image that cannot be read, or measure the others, and print how many were
    skipped. given_boxes: look in the true boxes instead of the whole frame.
    """
    faults = Faults(on_fault)
    every = BopDataset(split, faults).images
    images, total = every[first : first + limit if limit else None], len(every) + faults.images
    points = surface_points(split, estimator.objects)
    groups, seconds = [], []
    for look in run(estimator, tqdm(images, desc=str(split), unit="img"), faults, given_boxes):
        groups += compare(look.image, look.camera.width, look.found.poses, estimator.objects, points)
        seconds.append(look.seconds)
    if faults.kinds:
        print(f"{split}: {faults.summary(total)}", flush=True)
    return groups, len(seconds), seconds


def choose(
    bundle: Bundle, split: Path, limit: int, on_fault: OnFault = "refuse"
) -> tuple[DecodeSpec, dict[str, float]]:
    """Fit the score's weights and choose the lowest pose_score with at most ALARMS_PER_IMAGE false alarms, on
    the first half of the split's images; return both and the figures on the second half.

    A dense or heatmap bundle, which finds nothing by itself, is given the true boxes; its figures say so.
    """
    given = bundle.manifest.looks_where_told
    estimator = make_estimator(bundle, load_network(bundle, threads=1), pose_score=0.0)
    fit, half, _ = measure(estimator, split, limit // 2, 0, on_fault, given)
    weights = fit_confidence(
        np.concatenate([g.evidence for g in fit]), np.concatenate([g.right for g in fit])
    )
    alarms = np.sort(false_alarm_scores([rescored(g, weights) for g in fit]))[::-1]
    allowed = int(half * ALARMS_PER_IMAGE)
    threshold = math.ceil(100 * float(alarms[allowed]) + 1e-6) / 100 if len(alarms) > allowed else 0.05
    decode = DecodeSpec(bundle.manifest.decode.cell_score, threshold, weights.tolist())
    groups, images, seconds = measure(estimator, split, limit - limit // 2, limit // 2, on_fault, given)
    values = figures([cut(rescored(g, weights), threshold) for g in groups], images, seconds)
    return decode, rounded(values | ({"given_boxes": 1.0} if given else {}))


def fit_confidence(terms: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the weights (TERMS,) of a logistic regression of ``right`` (N,) on ``terms`` (N, TERMS), ridge
    1."""
    sign = np.where(right, 1.0, -1.0)

    def loss(weights: np.ndarray) -> float:
        return float(np.logaddexp(0, -sign * (terms @ weights)).sum() + 0.5 * (weights[1:] ** 2).sum())

    return np.round(minimize(loss, np.zeros(terms.shape[1]), method="L-BFGS-B").x, 6)


def rounded(values: dict[str, float]) -> dict[str, float]:
    """Six digits say all a measurement can; what is not a number (a median of nothing) is left out."""
    return {name: float(f"{value:.6g}") for name, value in values.items() if np.isfinite(value)}


def evaluate_command(
    bundle: Path,
    split: Path,
    limit: int,
    out: Path | None,
    on_fault: OnFault = "refuse",
    locator: Path | None = None,
    given_boxes: bool = False,
) -> None:
    """Measure, print, and write the figures. Raises ValueError for a bundle that does not search and that
    nothing tells where to look."""
    opened, network = _loaded(bundle)
    if opened.manifest.people:
        raise ValueError(f"{bundle}: shows people, wanted objects; see python -m training evaluate-people")
    finder = make_estimator(*_loaded(locator)) if locator else None
    estimator = make_estimator(opened, network, finder)
    if isinstance(estimator, RegionalEstimator) and not (locator or given_boxes):
        raise ValueError(
            f"{bundle}: of the {estimator.bundle.manifest.family} family, which looks where it is told: "
            "give --locator BUNDLE"
        )
    groups, images, seconds = measure(estimator, split, limit, 0, on_fault, given_boxes)
    values = figures(groups, images, seconds) | add_recalls(groups)
    values = rounded(values | ({"given_boxes": 1.0} if given_boxes else {}))
    for name, value in values.items():
        print(f"{name:28s} {value:g}")
    if out:
        out.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def _loaded(folder: Path):
    opened = open_bundle(folder)
    return opened, load_network(opened)
