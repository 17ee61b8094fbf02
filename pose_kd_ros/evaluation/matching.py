# SPDX-License-Identifier: Apache-2.0
"""Estimates and true poses of an image, matched object by object, with all errors between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..core.metrics import add, add_s, error_vector, match, mspd, mssd, pose_error
from ..core.object_model import ObjectModel
from ..datasets.bop import BopImage
from ..pipeline.score import RIGHT, TERMS, score_of
from ..pipeline.solve import ObjectPose
from .frame import VISIBLE
from .vsd import Caster, Sensor, vsd_of_pairs

FALSE_ALARM = 2.0  # diameters: an estimate farther from every instance is none of them, not a poor pose
FAR = 0.1  # metres: where the area under the curve of ADD-S ends
FOUND = 0.5  # of the diameter: an estimate with a smaller MSSD has found an instance, others are false


@dataclass(frozen=True)
class ObjectMatches:
    """Estimates and true instances of one object in one image.

    mssd, add, adds: (E, G) over the diameter; add is ADD, of a symmetric object ADD-S, which adds is of any.
    mspd: (E, G) px x 640 / width. turn (rad), shift (m): (E, G) up to symmetry. error: (E, G, 6), as of
    ``core.metrics.error_vector``. covariance: (E, 6, 6). pose: (E, 4, 4). vsd: (E, G, T) for each tau, None
    where it was not measured. depth: (E, G), true over estimated; None where it was not measured. scores:
    (E,). evidence: (E, TERMS), the scores' terms. right: (E,) bool, in the score's sense. is_target: (G,)
    bool, instances that count; the others may be found without harm.
    """

    object_id: int
    mssd: np.ndarray
    mspd: np.ndarray
    add: np.ndarray
    adds: np.ndarray
    shift: np.ndarray
    turn: np.ndarray
    error: np.ndarray
    covariance: np.ndarray
    pose: np.ndarray
    scores: np.ndarray
    evidence: np.ndarray
    right: np.ndarray
    is_target: np.ndarray
    vsd: np.ndarray | None = None
    depth: np.ndarray | None = None


def match_image(
    image: BopImage,
    width: int,
    poses: Sequence[ObjectPose],
    objects: Mapping[int, ObjectModel],
    points: Mapping[int, np.ndarray],
    caster: Caster | None = None,
) -> list[ObjectMatches]:
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
            ObjectMatches(
                object_id,
                mssd(*pair, points[object_id], model.symmetries) / model.diameter,
                in_image * 640 / width,
                (nearest if len(model.symmetries) > 1 else add(*pair, points[object_id])) / model.diameter,
                nearest / model.diameter,
                shift,
                turn,
                errors_of(a, b, model),
                np.array([p.covariance for p in found]).reshape(len(found), 6, 6),
                a,
                np.array([p.score for p in found]),
                np.array([p.evidence for p in found]).reshape(len(found), TERMS),
                (in_image < RIGHT * image.K[0, 0] * model.diameter / b[:, 2, 3]).any(1),
                np.array([i.visib_fract >= VISIBLE for i in true], bool),
                vsd_of_pairs(caster, model, a, b, sensor) if caster and sensor else None,
                b[None, :, 2, 3] / a[:, None, 2, 3],
            )
        )
    return groups


def errors_of(estimated: np.ndarray, true: np.ndarray, model: ObjectModel) -> np.ndarray:
    """Changes (E, G, 6) from estimates (E, 4, 4) to true poses (G, 4, 4)."""
    rows = [[error_vector(e, t, model.symmetries) for t in true] for e in estimated]
    return np.array(rows, float).reshape(len(estimated), len(true), 6)


def add_s_of_near(estimated, true, points, diameter: float) -> np.ndarray:
    """ADD-S (E, G), metres; infinity for pairs so far apart that they pass no threshold, as whose nearest
    points take long to find. ADD-S is at least ADD less a diameter."""
    estimated, true = np.broadcast_arrays(estimated, true)
    near = add(estimated, true, points) < diameter + max(FAR, FALSE_ALARM * diameter)
    result = np.full(near.shape, np.inf)
    if near.any():
        result[near] = add_s(estimated[near], true[near], points)
    return result


def best(matches: ObjectMatches, errors: np.ndarray, threshold: float) -> np.ndarray:
    """The error (of ``errors`` (E, G)) of the estimate matched to each asked
    instance, infinity where none is."""
    result = np.full(errors.shape[1], np.inf)
    estimates, instances = matched(matches, threshold)
    result[instances] = errors[estimates, instances]
    return result[matches.is_target]


def matched(matches: ObjectMatches, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """The estimates and the asked instances, by index, that are matched to each other below an MSSD."""
    instances = np.array(match(matches.mssd, matches.scores, threshold), int)
    estimates = np.flatnonzero(instances >= 0)
    estimates = estimates[matches.is_target[instances[estimates]]]
    return estimates, instances[estimates]


def cut(matches: ObjectMatches, threshold: float) -> ObjectMatches:
    """The same matches as it would be with a higher score threshold."""
    return kept_of(matches, matches.scores >= threshold)


def kept_of(matches: ObjectMatches, kept: np.ndarray) -> ObjectMatches:
    """The same matches with these estimates alone: indices, or a mask (E,)."""
    names = ["mssd", "mspd", "add", "adds", "shift", "turn", "error", "covariance", "pose"]
    names += ["scores", "evidence", "right"]
    names += [name for name in ("vsd", "depth") if getattr(matches, name) is not None]
    return replace(matches, **{name: getattr(matches, name)[kept] for name in names})


def rescored(
    matches: ObjectMatches, weights: Sequence[float], edge_weights: Sequence[float] = ()
) -> ObjectMatches:
    """Return the matches with the scores that these weights give (``pipeline.score.score_of``)."""
    scores = [score_of(terms, weights, edge_weights) for terms in matches.evidence]
    return replace(matches, scores=np.array(scores))
