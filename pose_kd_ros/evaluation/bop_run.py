"""A bundle on a BOP split, through the very estimator of the node, and the figures that come of it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ..core.camera import Camera
from ..core.metrics import (
    MSPD_THRESHOLDS,
    MSSD_THRESHOLDS,
    add,
    add_s,
    average_recall,
    count,
    match,
    mspd,
    mssd,
    pose_error,
    recall,
    squared_mahalanobis,
)
from ..core.object_model import ObjectModel
from ..datasets.bop import BopImage
from ..datasets.faults import DatasetError, Faults
from ..pipeline.confidence import RIGHT, TERMS, confidence
from ..pipeline.estimator import Estimator
from ..pipeline.region import Region, projected_box
from ..pipeline.regional import RegionalEstimator
from ..pipeline.solve import Estimates, ObjectPose
from .vsd import TAUS, Caster, Sensor, vsd_of_pairs
from .vsd import THRESHOLDS as VSD_THRESHOLDS

VISIBLE = 0.1  # BOP asks for instances of which at least this share is seen
NEAR = 2.0  # diameters: an estimate farther from every instance is a false alarm, not a poor pose
ADD_RIGHT = 0.1  # diameters
FAR = 0.1  # metres: where the area under the curve of ADD-S ends
FOUND = 0.5  # of the diameter: an estimate with a smaller MSSD has found an instance, others are false


@dataclass(frozen=True)
class Group:
    """Estimates and true instances of one object in one image.

    mssd, add, adds: (E, G) over the diameter; add is ADD, of a symmetric object ADD-S, which adds is
    of any. mspd: (E, G) px x 640 / width. turn (rad), shift (m): (E, G) up to symmetry. surprise:
    (E, G), errors in standard deviations of the estimates' covariances, squared. vsd: (E, G, T) for
    each tau, None where it was not measured. depth: (E, G), true over estimated; None where it was
    not measured. scores: (E,). evidence: (E, TERMS), the scores' terms. right: (E,) bool, in the
    score's sense. asked: (G,) bool, instances that count; the others may be found without harm.
    """

    object_id: int
    mssd: np.ndarray
    mspd: np.ndarray
    add: np.ndarray
    adds: np.ndarray
    shift: np.ndarray
    turn: np.ndarray
    surprise: np.ndarray
    scores: np.ndarray
    evidence: np.ndarray
    right: np.ndarray
    asked: np.ndarray
    vsd: np.ndarray | None = None
    depth: np.ndarray | None = None


class Look(NamedTuple):
    """An image, the camera it was taken with, what was found in it, and the seconds that took."""

    image: BopImage
    camera: Camera
    found: Estimates
    seconds: float


def run(
    estimator: Estimator | RegionalEstimator,
    images: Iterable[BopImage],
    faults: Faults | None = None,
    given_boxes: bool = False,
) -> Iterator[Look]:
    """Look at every image, from decoded file to poses: whole frame, no hints.

    faults: told of pictures that cannot be read; without it DatasetError is raised. given_boxes: look
    in the true boxes instead, as one who was told where the objects are; figures of such runs say so.
    """
    for image in images:
        try:
            pixels = image.load_rgb()
        except DatasetError as error:
            (faults or Faults()).add(error)
            continue
        camera = camera_of(image, pixels)
        regions = true_regions(image, camera, estimator.objects) if given_boxes else ()
        start = time.perf_counter()
        found = estimator.estimate(pixels, camera, regions, search=not given_boxes)
        yield Look(image, camera, found, time.perf_counter() - start)


def camera_of(image: BopImage, pixels: np.ndarray) -> Camera:
    """The ideal pinhole of a BOP image and its pixels (H, W, 3)."""
    return Camera(image.K, np.zeros(0), "plumb_bob", pixels.shape[1], pixels.shape[0])


def true_regions(image: BopImage, camera: Camera, objects: dict[int, ObjectModel]) -> list[Region]:
    """The projected boxes of an image's instances that count."""
    asked = [i for i in image.instances if i.object_id in objects and i.visib_fract >= VISIBLE]
    boxes = [projected_box(i.T_camera_object, objects[i.object_id], camera) for i in asked]
    return [Region(box, i.object_id) for i, box in zip(asked, boxes) if box is not None]


def compare(
    image: BopImage,
    width: int,
    poses: Sequence[ObjectPose],
    objects: Mapping[int, ObjectModel],
    points: Mapping[int, np.ndarray],
    caster: Caster | None = None,
) -> list[Group]:
    """Compare an image's estimates with its true poses, object by object.

    points: (V, 3) metres by object id. caster: for VSD, where the image has depth.
    """
    groups = []
    sensor = Sensor.of(image) if caster is not None and image.depth is not None else None
    for object_id, model in objects.items():
        found = [p for p in poses if p.object_id == object_id]
        true = [i for i in image.instances if i.object_id == object_id]
        if not found and not true:
            continue
        a = np.stack([p.pose for p in found]) if found else np.zeros((0, 4, 4))
        b = np.stack([i.T_camera_object for i in true]) if true else np.zeros((0, 4, 4))
        pair = a[:, None], b[None]
        shift, turn = pose_error(*pair, model.symmetries)
        in_image = mspd(*pair, points[object_id], model.symmetries, image.K)
        nearest = add_s_of_near(*pair, points[object_id], model.diameter)
        groups.append(
            Group(
                object_id,
                mssd(*pair, points[object_id], model.symmetries) / model.diameter,
                in_image * 640 / width,
                (nearest if len(model.symmetries) > 1 else add(*pair, points[object_id])) / model.diameter,
                nearest / model.diameter,
                shift,
                turn,
                surprises(found, b, model),
                np.array([p.score for p in found]),
                np.array([p.evidence for p in found]).reshape(len(found), TERMS),
                (in_image < RIGHT * image.K[0, 0] * model.diameter / b[:, 2, 3]).any(1),
                np.array([i.visib_fract >= VISIBLE for i in true], bool),
                sensor and vsd_of_pairs(caster, model, a, b, sensor),
                b[None, :, 2, 3] / a[:, None, 2, 3],
            )
        )
    return groups


def surprises(found: Sequence[ObjectPose], true: np.ndarray, model: ObjectModel) -> np.ndarray:
    """Squared Mahalanobis distances (E, G) of estimates from true poses (G, 4, 4)."""
    rows = [[squared_mahalanobis(p.pose, p.covariance, t, model.symmetries) for t in true] for p in found]
    return np.array(rows, float).reshape(len(found), len(true))


def add_s_of_near(estimated, true, points, diameter: float) -> np.ndarray:
    """ADD-S (E, G), metres; infinity for pairs so far apart that they pass no threshold,
    as whose nearest points take long to find. ADD-S is at least ADD less a diameter."""
    estimated, true = np.broadcast_arrays(estimated, true)
    near = add(estimated, true, points) < diameter + max(FAR, NEAR * diameter)
    result = np.full(near.shape, np.inf)
    if near.any():
        result[near] = add_s(estimated[near], true[near], points)
    return result


def best(group: Group, errors: np.ndarray, threshold: float) -> np.ndarray:
    """The error (of ``errors`` (E, G)) of the estimate matched to
    each asked instance, infinity where none is."""
    result = np.full(errors.shape[1], np.inf)
    for estimate, instance in enumerate(match(group.mssd, group.scores, threshold)):
        if instance >= 0:
            result[instance] = errors[estimate, instance]
    return result[group.asked]


def figures(groups: list[Group], images: int, seconds: list[float]) -> dict[str, float]:
    """Return the flat figures of a run, fractions in 0..1 and SI units (ms for the time of an image).

    mssd, mspd: BOP19 average recalls; vsd and ar, the mean of the three, where there is
    depth. mssd_01d: share of instances with MSSD < 0.1 d. found: with MSSD < 0.5 d. Medians
    are over the found ones. false_positives_per_image: estimates that found nothing.
    """
    asked = {name: [(getattr(g, name)[:, g.asked], g.scores) for g in groups] for name in ("mssd", "mspd")}
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
        "mssd": average_recall(asked["mssd"], MSSD_THRESHOLDS),
        "mspd": average_recall(asked["mspd"], MSPD_THRESHOLDS),
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


def vsd_recall(groups: list[Group]) -> float | None:
    """BOP19's average recall by VSD, over all tolerances; None where an image had no depth."""
    if not groups or any(g.vsd is None for g in groups):
        return None
    of_tau = [[(g.vsd[:, g.asked, t], g.scores) for g in groups] for t in range(len(TAUS))]
    return float(np.mean([average_recall(errors, VSD_THRESHOLDS) for errors in of_tau]))


def add_recalls(groups: list[Group]) -> dict[str, float]:
    """Return ADD(-S) < 0.1 d: ``add_s_01d`` over all asked instances, ``add_s_01d_<id>`` of each object.

    Estimates are matched by ADD(-S) itself, as in other papers. It
    cannot see a wrong rotation of an object as symmetric as a cube.
    """
    hits: dict[int, list[np.ndarray]] = {}
    for group in groups:
        matched = match(group.add, group.scores, ADD_RIGHT)
        hit = np.isin(np.arange(len(group.asked)), matched)[group.asked]
        hits.setdefault(group.object_id, []).append(hit)
    joined = {i: np.concatenate(parts) for i, parts in sorted(hits.items())}
    every = np.concatenate([np.zeros(0, bool), *joined.values()])
    shares = {"add_s_01d": every} | {f"add_s_01d_{i}": hit for i, hit in joined.items()}
    return {name: float(hit.mean()) if len(hit) else float("nan") for name, hit in shares.items()}


def false_alarm_scores(groups: list[Group]) -> np.ndarray:
    """Scores of all estimates with nothing near, for choosing a threshold."""
    alarms = [g.scores[(g.mssd > NEAR).all(1)] for g in groups]
    return np.concatenate([np.zeros(0), *alarms])


def cut(group: Group, threshold: float) -> Group:
    """The same group as it would be with a higher score threshold."""
    return kept_of(group, group.scores >= threshold)


def kept_of(group: Group, kept: np.ndarray) -> Group:
    """The same group with these estimates alone: indices, or a mask (E,)."""
    names = ["mssd", "mspd", "add", "adds", "shift", "turn", "surprise", "scores", "evidence", "right"]
    names += [name for name in ("vsd", "depth") if getattr(group, name) is not None]
    return replace(group, **{name: getattr(group, name)[kept] for name in names})


def rescored(group: Group, weights: np.ndarray) -> Group:
    """The same group as it would be with these weights of the scores' terms."""
    return replace(group, scores=np.array([confidence(terms, weights) for terms in group.evidence]))
