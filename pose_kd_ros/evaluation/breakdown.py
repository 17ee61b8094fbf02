"""The figures of a run that other papers print, each object's own, and recall over thresholds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..core.metrics import auc_posecnn, count, match
from ..core.object_model import ObjectModel
from .bop_run import Group, kept_of

CM, DEGREES = 5.0, 5.0
CURVE_POINTS = 50
OF_IMAGES = ("images", "ms_per_image")
# Name of the errors: farthest threshold, label.
CURVES = {
    "mssd": (0.5, "MSSD / diameter"),
    "mspd": (50.0, "MSPD (px of an image 640 wide)"),
    "add_s": (0.5, "ADD(-S) / diameter"),
}


def localised(groups: Sequence[Group], objects: Mapping[int, ObjectModel]) -> dict[str, float]:
    """Figures of the best-scored estimates, as many of an object as are asked for.

    add_s_01d: ADD, of symmetric objects ADD-S, below 0.1 d. auc_add_s: area under its recall up to 0.1 m, as
    of the PoseCNN toolbox; auc_adds: the same of ADD-S for all objects. within_5cm_5deg: up to symmetry.
    """
    near = [_asked(g, np.maximum(g.shift / (CM / 100), g.turn / np.radians(DEGREES))) for g in groups]
    distances = {name: [_distances(g, getattr(g, name), objects) for g in groups] for name in ("add", "adds")}
    return {
        "add_s_01d": _recall([_asked(g, g.add) for g in groups], 0.1),
        "auc_add_s": auc_posecnn(np.concatenate([np.zeros(0), *distances["add"]])),
        "auc_adds": auc_posecnn(np.concatenate([np.zeros(0), *distances["adds"]])),
        "within_5cm_5deg": _recall(near, 1.0),
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


def curves(groups: Sequence[Group]) -> dict[str, dict]:
    """Recall, y, over thresholds, x, for MSSD, MSPD and ADD(-S)."""
    result = {}
    for name, (limit, label) in CURVES.items():
        errors = [_asked(g, g.add if name == "add_s" else getattr(g, name)) for g in groups]
        x = np.linspace(0, limit, CURVE_POINTS + 1)[1:]
        result[name] = {"x": x.tolist(), "y": [_recall(errors, t) for t in x], "x_label": label}
    return result


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
