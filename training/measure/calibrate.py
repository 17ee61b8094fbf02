# SPDX-License-Identifier: Apache-2.0
"""Fit a bundle's scores and covariances on held-out images, choose its threshold, and measure it on
others."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit

from pose_kd_ros.bundle.manifest import DecodeSpec, EdgeSpec
from pose_kd_ros.bundle.store import Bundle
from pose_kd_ros.datasets.bop import BopDataset
from pose_kd_ros.datasets.faults import Faults, OnFault
from pose_kd_ros.evaluation.matching import FALSE_ALARM, ObjectMatches, best, cut, rescored
from pose_kd_ros.evaluation.metrics import false_alarm_scores, figures
from pose_kd_ros.pipeline.score import AGREEMENT

from ..families import FAMILIES
from .evaluate import every_pose, measure, open_object_estimator, rounded
from .uncertainty import COVERED, LEAST_FOUND, coverage, fit_uncertainty

LOWEST_SCORE = 0.05
TAIL, LEAST_TAIL = 8, 30  # false alarms that the tail is fitted to: times those allowed, and at least
ALARMS_PER_IMAGE = 1 / 100  # false alarms that the threshold allows on held-out images


class Chosen(NamedTuple):
    """What ``choose`` fits, the figures on other images, and the curve with the threshold on it."""

    decode: DecodeSpec
    metrics: dict[str, float]
    precision_recall: dict[str, list[float]]


def choose(bundle: Bundle, split: Path, limit: int, on_fault: OnFault = "refuse") -> Chosen:
    """Fit the votes' scale, the score's weights and the covariances and choose the pose_score
    (``alarm_threshold``) on the first half of the split's first ``limit`` images, or of as many as there are;
    return these and the figures on the second half.

    The votes' scale is fitted first, since all else depends on it; for a family with such a scale the first
    half is processed twice. A dense or heatmap bundle without a locator, which does not search, is given the
    true boxes, and its figures say so. A bundle with meshes is measured once more with poses refined on
    edges, which have a separate score (``EdgeSpec``); its figures are those of refined poses.
    """
    given = bundle.manifest.needs_regions
    bundle = with_decode(bundle, DecodeSpec(bundle.manifest.decode.cell_score, 0.0, []))
    estimator = open_object_estimator(bundle, threads=1, refine="none", pose_score=0.0)
    limit = min(limit, len(BopDataset(split, Faults(on_fault)).images))
    first = max(1, limit // 2)
    fit, half, _ = measure(estimator, split, first, 0, on_fault, given)
    scales = vote_scales(fit) if FAMILIES[bundle.manifest.family].votes_scale else {}
    if scales:
        bundle = with_decode(bundle, replace(bundle.manifest.decode, vote_scale=scales))
        estimator = open_object_estimator(bundle, threads=1, refine="none", pose_score=0.0)
        fit, half, _ = measure(estimator, split, first, 0, on_fault, given)
    terms, right = (np.concatenate([getattr(g, name) for g in fit]) for name in ("evidence", "right"))
    weights = fit_confidence(terms[:, :AGREEMENT], right).tolist()
    threshold = alarm_threshold(false_alarm_scores([rescored(g, weights) for g in fit]), half)
    sure = [cut(rescored(g, weights), threshold) for g in fit]
    scale, shared = fit_uncertainty(sure, estimator.objects)
    cell_score = bundle.manifest.decode.cell_score
    decode = DecodeSpec(cell_score, threshold, weights, scale, shared, scales)
    bundle = with_decode(bundle, decode)
    estimator = open_object_estimator(bundle, threads=1, pose_score=0.0)
    edges = None
    if estimator.refiner is not None:
        fit, half, _ = measure(estimator, split, first, 0, on_fault, given)
        edges = fit_edges(fit, half, weights)
        threshold = edges.pose_score
    groups, images, seconds = measure(estimator, split, limit - first, first, on_fault, given)
    groups = [rescored(g, weights, edges.calibration if edges else ()) for g in groups]
    kept = [cut(g, threshold) for g in groups]
    values = figures(kept, images, seconds) | every_pose(groups)
    values[f"coverage_{round(100 * COVERED)}"] = coverage(kept)
    values |= {"given_boxes": 1.0} if given else {}
    values |= {"refined_on_edges": 1.0} if edges else {}
    return Chosen(replace(decode, edges=edges), rounded(values), precision_recall(groups))


def fit_edges(groups: list[ObjectMatches], images: int, weights: list[float]) -> EdgeSpec:
    """Fit the score of poses refined on edges and its threshold, on the matches in ``images`` images.
    weights: of the terms without the agreement, for poses whose agreement is unknown."""
    terms, right = (np.concatenate([getattr(g, name) for g in groups]) for name in ("evidence", "right"))
    known = np.isfinite(terms[:, AGREEMENT])
    fitted = fit_confidence(terms[known], right[known]).tolist()
    scored = [rescored(g, weights, fitted) for g in groups]
    return EdgeSpec(alarm_threshold(false_alarm_scores(scored), images), fitted)


def vote_scales(groups: list[ObjectMatches]) -> dict[str, float]:
    """Return, by object id, the size of the votes over the true size: the median, over all poses that are
    near, of true over estimated depth. Objects with fewer than LEAST_FOUND such poses are left out.

    Near (FALSE_ALARM), not found (FOUND): a limit of half a diameter would leave out the poses with the
    largest depth errors. On renders of the shipped cube it gives 0.986 where the size is 0.957, and half of
    the gain.
    """
    ratios: dict[str, list[np.ndarray]] = {}
    for group in groups:
        assert group.depth is not None  # ``measure`` compares depths
        found = best(group, group.depth, FALSE_ALARM)
        ratios.setdefault(str(group.object_id), []).append(found[np.isfinite(found)])
    joined = {name: np.concatenate(parts) for name, parts in sorted(ratios.items())}
    return {n: float(f"{np.median(r):.4g}") for n, r in joined.items() if len(r) >= LEAST_FOUND}


def with_decode(bundle: Bundle, decode: DecodeSpec) -> Bundle:
    """Return the bundle with other thresholds and scales, without writing it."""
    return replace(bundle, manifest=replace(bundle.manifest, decode=decode))


def fit_confidence(terms: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the weights (TERMS,) of a logistic regression of ``right`` (N,) on ``terms`` (N, TERMS), ridge
    1."""
    sign = np.where(right, 1.0, -1.0)

    def loss(weights: np.ndarray) -> float:
        return float(np.logaddexp(0, -sign * (terms @ weights)).sum() + 0.5 * (weights[1:] ** 2).sum())

    return np.round(minimize(loss, np.zeros(terms.shape[1]), method="L-BFGS-B").x, 6)


def alarm_threshold(scores: np.ndarray, images: int, allowed: float = ALARMS_PER_IMAGE) -> float:
    """Return the lowest threshold with at most ``allowed`` false alarms per image, rounded up to a hundredth;
    LOWEST_SCORE if there are no more anyway. scores (N,) in [0, 1]: of all false alarms in ``images`` images.

    The few highest scores are random. Therefore an exponential tail is fitted to the logits of TAIL times as
    many as are allowed, at least LEAST_TAIL: of the n highest, which lie above m with a mean excess e, n
    exp((m - z) / e) lie above z. Convention: 100 images, one alarm allowed, the 30 highest above m = -2 with
    e = 0.5: one lies above z = -2 + 0.5 ln(30) = -0.3, a score of 0.43.
    """
    if len(scores) <= max(1.0, allowed * images):
        return LOWEST_SCORE
    logits = np.sort(logit(np.clip(scores, 1e-6, 1 - 1e-6)))
    upper = logits[-round(max(LEAST_TAIL, TAIL * allowed * images)) :]
    excess = max(float((upper - upper[0]).mean()), 1e-6)
    reached = upper[0] + excess * math.log(max(len(upper) / (allowed * images), 1.0))
    return max(LOWEST_SCORE, math.ceil(100 * float(expit(reached)) - 1e-6) / 100)


def precision_recall(groups: list[ObjectMatches]) -> dict[str, list[float]]:
    """Return precision and recall (MSSD < FOUND diameters) at thresholds of the score, for a curve."""
    curve: dict[str, list[float]] = {"score": [], "precision": [], "recall": []}
    for threshold in np.linspace(0, 0.98, 50):
        values = figures([cut(group, threshold) for group in groups], 1, [])
        row = threshold, values["precision_05d"], values["found"]
        for name, value in zip(curve, row):
            curve[name].append(float(value))
    return curve
