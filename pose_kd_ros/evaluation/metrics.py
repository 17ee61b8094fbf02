# SPDX-License-Identifier: Apache-2.0
"""Figures over the matches of many images: BOP19's recalls and those that other papers print."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..core.metrics import (
    MSPD_THRESHOLDS,
    MSSD_THRESHOLDS,
    auc_posecnn,
    average_recall,
    count,
    match,
    recall,
)
from ..core.object_model import ObjectModel
from .matching import FALSE_ALARM, FOUND, ObjectMatches, best, kept_of
from .vsd import TAUS
from .vsd import THRESHOLDS as VSD_THRESHOLDS

ADD_RIGHT = 0.1  # diameters
WITHIN = ((0.02, 2), (0.05, 5))  # metres, degrees
OF_IMAGES = ("images", "ms_per_image")


def figures(groups: list[ObjectMatches], images: int, seconds: list[float]) -> dict[str, float]:
    """Return the flat figures of a run, fractions in 0..1 and SI units (ms for the time of an image).

    mssd, mspd: BOP19 average recalls; vsd and ar, the mean of the three, where there is depth. mssd_01d:
    share of instances with MSSD < 0.1 d. found: with MSSD < 0.5 d. Medians are over the found ones.
    false_positives_per_image: estimates that found nothing.
    """
    targets = {
        name: [(getattr(g, name)[:, g.is_target], g.scores) for g in groups] for name in ("mssd", "mspd")
    }
    nearest = np.concatenate([np.zeros(0), *(best(g, g.mssd, FOUND) for g in groups)])
    shift, turn = (
        np.concatenate([np.zeros(0), *(best(g, getattr(g, n), FOUND) for g in groups)])
        for n in ("shift", "turn")
    )
    hit = np.isfinite(nearest)
    false = sum(int((match(g.mssd, g.scores, FOUND) < 0).sum()) for g in groups)
    values = {
        "images": images,
        "instances": len(nearest),
        "mssd": average_recall(targets["mssd"], MSSD_THRESHOLDS),
        "mspd": average_recall(targets["mspd"], MSPD_THRESHOLDS),
        "mssd_01d": recall(nearest, 0.1),
        "found": float(hit.mean()) if len(hit) else float("nan"),
        "median_rotation_rad": float(np.median(turn[hit])) if hit.any() else float("nan"),
        "median_translation_m": float(np.median(shift[hit])) if hit.any() else float("nan"),
        "false_positives_per_image": false / max(images, 1),
        "precision_05d": count([(g.mssd, g.scores) for g in groups], FOUND).precision,
        "ms_per_image": 1e3 * float(np.median(seconds)) if seconds else float("nan"),
    }
    vsd = vsd_recall(groups)
    if vsd is not None:
        values |= {"vsd": vsd, "ar": (vsd + values["mssd"] + values["mspd"]) / 3}
    return values


def vsd_recall(groups: list[ObjectMatches]) -> float | None:
    """BOP19's average recall by VSD, over all tolerances; None where an image had no depth."""
    seen = [(g.vsd[:, g.is_target], g.scores) for g in groups if g.vsd is not None]
    if not groups or len(seen) < len(groups):
        return None
    of_tau = [[(errors[..., t], scores) for errors, scores in seen] for t in range(len(TAUS))]
    return float(np.mean([average_recall(errors, VSD_THRESHOLDS) for errors in of_tau]))


def add_recalls(groups: list[ObjectMatches]) -> dict[str, float]:
    """Return ADD(-S) < 0.1 d: ``add_s_01d`` over all asked instances, ``add_s_01d_<id>`` of each object.

    Estimates are matched by ADD(-S) itself, as in other papers. It cannot see a wrong rotation of an
    object as symmetric as a cube.
    """
    hits: dict[int, list[np.ndarray]] = {}
    for group in groups:
        matched = match(group.add, group.scores, ADD_RIGHT)
        hit = np.isin(np.arange(len(group.is_target)), matched)[group.is_target]
        hits.setdefault(group.object_id, []).append(hit)
    joined = {i: np.concatenate(parts) for i, parts in sorted(hits.items())}
    every = np.concatenate([np.zeros(0, bool), *joined.values()])
    shares = {"add_s_01d": every} | {f"add_s_01d_{i}": hit for i, hit in joined.items()}
    return {name: float(hit.mean()) if len(hit) else float("nan") for name, hit in shares.items()}


def false_alarm_scores(groups: list[ObjectMatches]) -> np.ndarray:
    """Scores of all estimates with nothing near, for choosing a threshold."""
    alarms = [g.scores[(g.mssd > FALSE_ALARM).all(1)] for g in groups]
    return np.concatenate([np.zeros(0), *alarms])


def localised(groups: Sequence[ObjectMatches], objects: Mapping[int, ObjectModel]) -> dict[str, float]:
    """Figures of the best-scored estimates, as many of an object as are asked for.

    add_s_01d: ADD, of symmetric objects ADD-S, below 0.1 d. auc_add_s: area under its recall up
    to 0.1 m, as of the PoseCNN toolbox; auc_adds: the same of ADD-S for all objects. within_...:
    both errors below, up to symmetry.
    """
    distances = {name: [_distances(g, getattr(g, name), objects) for g in groups] for name in ("add", "adds")}
    return {
        "add_s_01d": add_recalls(list(groups))["add_s_01d"],
        "auc_add_s": auc_posecnn(np.concatenate([np.zeros(0), *distances["add"]])),
        "auc_adds": auc_posecnn(np.concatenate([np.zeros(0), *distances["adds"]])),
        **{
            f"within_{round(100 * metres)}cm_{degrees}deg": _recall(
                [_asked(g, np.maximum(g.shift / metres, g.turn / np.radians(degrees))) for g in groups], 1.0
            )
            for metres, degrees in WITHIN
        },
    }


def by_object(
    groups: Sequence[ObjectMatches],
    objects: Mapping[int, ObjectModel],
    figures_of: Callable[[list[ObjectMatches]], dict],
) -> dict[str, dict]:
    """Class name and ``figures_of`` each object that was asked for or found, by its id as
    text; not those of whole images."""
    found = {}
    for object_id in sorted({g.object_id for g in groups}):
        own = figures_of([g for g in groups if g.object_id == object_id])
        figures = {name: value for name, value in own.items() if name not in OF_IMAGES}
        found[str(object_id)] = {"class_name": objects[object_id].name, **figures}
    return found


def localisation(group: ObjectMatches) -> ObjectMatches:
    """The group with its best-scored estimates, no more than are asked for: BOP's localisation
    task knows how many there are."""
    return kept_of(group, np.argsort(-group.scores, kind="stable")[: int(group.is_target.sum())])


def _asked(group: ObjectMatches, errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return errors[:, group.is_target], group.scores


def _recall(errors: Sequence[tuple[np.ndarray, np.ndarray]], threshold: float) -> float:
    return count(errors, threshold, top_only=True).recall


def _distances(group: ObjectMatches, errors: np.ndarray, objects: Mapping[int, ObjectModel]) -> np.ndarray:
    """Metres (G,) to the estimate of each asked instance, infinity where there is none."""
    best = localisation(group)
    kept = errors[np.argsort(-group.scores, kind="stable")[: len(best.scores)]][:, group.is_target]
    result = np.full(kept.shape[1], np.inf)
    for estimate, instance in enumerate(match(kept, best.scores, np.inf)):
        if instance >= 0:
            result[instance] = kept[estimate, instance] * objects[group.object_id].diameter
    return result
