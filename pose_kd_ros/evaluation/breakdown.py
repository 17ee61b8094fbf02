"""The figures of BOP's localisation task that other papers print, in all and of each object."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..core.metrics import auc_posecnn, count, match
from ..core.object_model import ObjectModel
from .bop_run import Group, add_recalls, kept_of
from .figures import WITHIN

OF_IMAGES = ("images", "ms_per_image")


def localised(groups: Sequence[Group], objects: Mapping[int, ObjectModel]) -> dict[str, float]:
    """Figures of the best-scored estimates, as many of an object as are asked for.

    add_s_01d: ADD, of symmetric objects ADD-S, below 0.1 d. auc_add_s: area under its recall up to 0.1 m, as
    of the PoseCNN toolbox; auc_adds: the same of ADD-S for all objects. within_...: both errors below, up to
    symmetry.
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
    groups: Sequence[Group], objects: Mapping[int, ObjectModel], figures_of: Callable[[list[Group]], dict]
) -> dict[str, dict]:
    """Class name and ``figures_of`` each object that was asked for or found, by its id as text; not those of
    whole images."""
    found = {}
    for object_id in sorted({g.object_id for g in groups}):
        own = figures_of([g for g in groups if g.object_id == object_id])
        figures = {name: value for name, value in own.items() if name not in OF_IMAGES}
        found[str(object_id)] = {"class_name": objects[object_id].name, **figures}
    return found


def localisation(group: Group) -> Group:
    """The group with its best-scored estimates, no more than are asked for: BOP's localisation task knows how
    many there are."""
    return kept_of(group, np.argsort(-group.scores, kind="stable")[: int(group.asked.sum())])


def _asked(group: Group, errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return errors[:, group.asked], group.scores


def _recall(errors: Sequence[tuple[np.ndarray, np.ndarray]], threshold: float) -> float:
    return count(errors, threshold, top_only=True).recall


def _distances(group: Group, errors: np.ndarray, objects: Mapping[int, ObjectModel]) -> np.ndarray:
    """Metres (G,) to the estimate of each asked instance, infinity where there is none."""
    best = localisation(group)
    kept = errors[np.argsort(-group.scores, kind="stable")[: len(best.scores)]][:, group.asked]
    result = np.full(kept.shape[1], np.inf)
    for estimate, instance in enumerate(match(kept, best.scores, np.inf)):
        if instance >= 0:
            result[instance] = kept[estimate, instance] * objects[group.object_id].diameter
    return result
