# SPDX-License-Identifier: Apache-2.0
"""Measure an exported bundle with the robot's estimator, on renders or real images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pose_kd_ros.bundle.store import Bundle, open_bundle
from pose_kd_ros.datasets.bop import BopDataset
from pose_kd_ros.datasets.bop.folder import surface_points
from pose_kd_ros.datasets.faults import Faults, OnFault
from pose_kd_ros.evaluation.looks import run
from pose_kd_ros.evaluation.matching import ObjectMatches, cut, match_image
from pose_kd_ros.evaluation.metrics import add_recalls, figures
from pose_kd_ros.pipeline.estimator import Estimator
from pose_kd_ros.pipeline.families import open_estimator
from pose_kd_ros.pipeline.people import PeopleEstimator


def open_object_estimator(bundle: Bundle, **options) -> Estimator:
    """Return the estimator of a bundle for objects; options: as of ``open_estimator``.

    Raises ValueError for a bundle for people.
    """
    estimator = open_estimator(bundle, **options)
    if isinstance(estimator, PeopleEstimator):
        raise ValueError(f"{bundle.folder}: wanted objects, found people")
    return estimator


def measure(
    estimator: Estimator,
    split: Path,
    limit: int = 0,
    first: int = 0,
    on_fault: OnFault = "refuse",
    given_boxes: bool = False,
) -> tuple[list[ObjectMatches], int, list[float]]:
    """Run the estimator on ``limit`` images (0: all) of a split, from number ``first`` on; return the
    matches, the number of images, and the seconds of each.

    on_fault: raise DatasetError for an image that cannot be read, or measure the others and print how many
    were skipped. given_boxes: estimate in the true boxes instead of searching the whole frame.
    """
    faults = Faults(on_fault)
    every = BopDataset(split, faults).images
    images, total = every[first : first + limit if limit else None], len(every) + faults.images
    points = surface_points(split, estimator.objects)
    groups, seconds = [], []
    for look in run(estimator, tqdm(images, desc=str(split), unit="img"), faults, given_boxes):
        groups += match_image(look.image, look.camera.width, look.found.poses, estimator.objects, points)
        seconds.append(look.seconds)
    if faults.kinds:
        print(f"{split}: {faults.summary(total)}", flush=True)
    return groups, len(seconds), seconds


def every_pose(groups: list[ObjectMatches]) -> dict[str, float]:
    """Return the recalls without a score threshold, as papers report them; their names end in
    ``_every_pose``."""
    values = figures(groups, 1, [])
    return {f"{name}_every_pose": values[name] for name in ("mssd", "mspd", "mssd_01d", "found")}


def rounded(values: dict[str, float]) -> dict[str, float]:
    """Round to six digits; leave out values that are not finite, such as a median of nothing."""
    return {name: float(f"{value:.6g}") for name, value in values.items() if np.isfinite(value)}


def evaluate_command(
    bundle: Path,
    split: Path,
    limit: int,
    out: Path | None,
    on_fault: OnFault = "refuse",
    given_boxes: bool = False,
) -> None:
    """Measure a bundle; print the figures, and write them to ``out``.

    Raises ValueError for a bundle for people, and without given boxes for one that does not search.
    """
    opened = open_bundle(bundle)
    if opened.manifest.people:
        raise ValueError(f"{bundle}: wanted objects, found people; see python -m training evaluate-people")
    if opened.manifest.needs_regions and not given_boxes:
        raise ValueError(
            f"{bundle}: wanted a bundle that searches, found the {opened.manifest.family} family without a "
            "locator; export it with --locator, or give --given-boxes"
        )
    estimator = open_object_estimator(opened, pose_score=0.0)
    groups, images, seconds = measure(estimator, split, limit, 0, on_fault, given_boxes)
    estimator.pose_score = None  # the bundle's
    kept = [cut(group, estimator.pose_score) for group in groups]
    values = figures(kept, images, seconds) | add_recalls(kept) | every_pose(groups)
    values = rounded(values | ({"given_boxes": 1.0} if given_boxes else {}))
    for name, value in values.items():
        print(f"{name:28s} {value:g}")
    if out:
        out.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
