# SPDX-License-Identifier: Apache-2.0
"""Metrics of people's joints: PCKh (MPII) and AP by object keypoint similarity (COCO).

Sources: the evaluations of http://human-pose.mpi-inf.mpg.de and https://cocodataset.org/#keypoints-eval, with
the rescoring and the suppression that published COCO figures use.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval, Params

from pose_kd_ros.datasets.values import read_json

LEFT_OUT = ("pelvis", "thorax")  # of PCKh
THRESHOLD = 0.5
FINE = 0.11  # threshold of what public code prints as Mean@0.1: the twelfth of 0, 0.01, ...
SIGMAS = Params("keypoints").kpt_oks_sigmas
SURE = 0.2  # joints with a lower score do not count in a person's score


def pckh(
    found: np.ndarray, truth: np.ndarray, visible: np.ndarray, head_size: np.ndarray, names: Sequence[str]
) -> dict[str, float]:
    """Return the percentage of visible joints within half a head size of the truth, the limit included.

    found, truth (N, K, 2) pixels, NaN where nothing was found; visible (N, K); head_size (N,) pixels. Returns
    a figure for each joint that was visible at all; ``mean`` over all visible joints of all people, so that
    each joint is weighted by how often it is visible; and ``mean@0.1``, with a threshold of 0.11 as in
    published tables.
    """
    kept = [k for k, name in enumerate(names) if name not in LEFT_OUT]
    distance = np.linalg.norm(found - truth, axis=2)[:, kept] / head_size[:, None]
    counts = visible[:, kept] > 0
    if not counts.any():
        raise ValueError("pckh: wanted a visible joint, found none")
    right = (distance <= THRESHOLD) & counts
    figures = {
        names[k]: float(100.0 * right[:, i].sum() / counts[:, i].sum())
        for i, k in enumerate(kept)
        if counts[:, i].any()
    }
    means = {"mean": right, "mean@0.1": (distance <= FINE) & counts}
    return figures | {name: float(100.0 * hits.sum() / counts.sum()) for name, hits in means.items()}


def person_score(box_score: float, scores: np.ndarray) -> float:
    """Return the box's score times the mean of the joints' (K,) above 0.2; 0 where none is."""
    sure = scores[scores > SURE]
    return float(box_score * sure.mean()) if len(sure) else 0.0


def similarity(points: np.ndarray, others: np.ndarray, area: float, areas: np.ndarray) -> np.ndarray:
    """Object keypoint similarity (M,), 0 to 1, of a person (17, 2) with others (M, 17, 2); area, areas (M,):
    of their boxes, pixels squared."""
    squared = ((others - points) ** 2).sum(2) / (2 * SIGMAS) ** 2
    return np.exp(-squared / (area + areas[:, None])).mean(1)


def suppressed(
    points: np.ndarray, scores: np.ndarray, areas: np.ndarray, threshold: float = 0.9
) -> np.ndarray:
    """Return which people of an image are kept, best first: those whose similarity to every better one is at
    most ``threshold``.

    points (N, 17, 2) pixels, scores (N,), areas (N,) pixels squared -> indices.
    """
    left, kept = np.argsort(-scores, kind="stable"), []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        left = left[similarity(points[best], points[left], areas[best], areas[left]) <= threshold]
    return np.array(kept, int)


def average_precision(
    annotations: Path, people: list[dict], images: Sequence[int] | None = None
) -> dict[str, float | None]:
    """Return COCO's figures, 0 to 1, by pycocotools; None where no person of that size is annotated.

    people: COCO's results (image_id, category_id, keypoints (51,) x, y, score of each, score), not changed.
    images: ids of those to measure, all if None.
    """
    content = read_json(annotations)
    wanted = {each["id"] for each in content["images"]} if images is None else set(images)
    people = [dict(each) for each in people if each["image_id"] in wanted]
    if not people:
        raise ValueError(f"{annotations}: wanted people in its {len(wanted)} images, found none")
    content["images"] = [each for each in content["images"] if each["id"] in wanted]
    content["annotations"] = [each for each in content["annotations"] if each.get("image_id") in wanted]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = content
        truth.createIndex()
        measured = COCOeval(truth, truth.loadRes(people), "keypoints")  # its useSegm would make them boxes
        measured.evaluate()
        measured.accumulate()
        measured.summarize()
    names = [f"{kind}{part}" for kind in ("AP", "AR") for part in ("", "50", "75", "_medium", "_large")]
    return {name: None if value < 0 else float(value) for name, value in zip(names, measured.stats)}
