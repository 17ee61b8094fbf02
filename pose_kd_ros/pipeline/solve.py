# SPDX-License-Identifier: Apache-2.0
"""From one instance's correspondences to its pose: the half of the way that all families share."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..bundle.manifest import DecodeSpec
from ..core.camera import Camera
from ..core.object_model import ObjectModel, canonical
from ..core.pnp import solve_pnp
from ..core.predictions import Correspondences
from ..core.refine import refine_pose, with_origin_moved
from ..core.uncertainty import stated_covariance
from .region import overlap, projected_box
from .score import TERMS, evidence, highest_score, hoped_score

MOST_SCATTER = 0.1  # of the object's box: votes within any family's threshold scatter less
SAME_OBJECT = 0.5  # poses of a class whose projected boxes overlap by more are one object


@dataclass(frozen=True)
class ObjectPose:
    """One estimate. pose: T_camera_object (4, 4), metres. covariance: (6, 6), as ``core.refine`` states it.

    score: in [0, 1], see ``score``. box: (x0, y0, x1, y1) raw pixels. cells, support: how many cells voted,
    and the share of their weight that agrees. sigma_px: scatter of the agreeing votes in full-image pixels.
    evidence: the terms of the score.
    """

    object_id: int
    pose: np.ndarray
    covariance: np.ndarray
    score: float
    box: np.ndarray
    cells: int
    support: float
    sigma_px: float
    track_id: int | None = None
    evidence: np.ndarray = field(default_factory=lambda: np.zeros(TERMS))


@dataclass(frozen=True)
class Estimates:
    """All poses of a frame, best first, and the milliseconds each stage took (summed over regions)."""

    poses: list[ObjectPose]
    stages_ms: dict[str, float] = field(default_factory=dict)


class Stopwatch:
    """Adds up the time of named stages."""

    def __init__(self) -> None:
        self.stages_ms: dict[str, float] = {}
        self.restart()

    def restart(self) -> None:
        """Leave out the time since the last lap, which another stopwatch has counted."""
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.stages_ms[stage] = self.stages_ms.get(stage, 0.0) + 1e3 * (now - self._last)
        self._last = now


def check_size(image: np.ndarray, camera: Camera) -> None:
    """Raise ValueError where an image (H, W, 3) and its camera disagree."""
    if image.shape[:2] != (camera.height, camera.width):
        raise ValueError(
            f"image: wanted {camera.width}x{camera.height}, as its camera_info says, "
            f"found {image.shape[1]}x{image.shape[0]}"
        )


def solve(
    correspondences: Correspondences,
    model: ObjectModel,
    camera: Camera,
    threshold: float,
    decode: DecodeSpec,
    weights: Sequence[float],
    least: float = 0.0,
) -> ObjectPose | None:
    """RANSAC PnP over one instance's correspondences, robust refinement, canonical representative;
    None if they hold no pose, or none whose score could reach ``least``. threshold: pixels of the
    full image. decode: the bundle's. weights: of the score's terms; where they have one for the agreement
    with edges, which is not known yet, the score is ``hoped_score``."""
    result = solve_pnp(correspondences, camera.K, threshold)
    if result is None:
        return None
    cells, score = len(np.unique(correspondences.cell)), correspondences.score
    if highest_score(score, cells, MOST_SCATTER, weights, result.support) < least:
        return None
    refined = refine_pose(result.pose, correspondences, camera.K, threshold)
    if refined is None:
        return None
    box = projected_box(refined.pose, model, camera)
    if box is None:
        return None
    size = float((box[2:] - box[:2]).max())
    terms = evidence(score, result.support, cells, refined.sigma_px / size)
    pose = canonical(refined.pose, model)
    covariance = with_origin_moved(refined.covariance, pose[:3, 3] - refined.pose[:3, 3])
    scale, shared = decode.covariance_scale, decode.covariance_shared
    return ObjectPose(
        object_id=model.id,
        pose=pose,
        covariance=stated_covariance(covariance, pose, model, scale, shared),
        score=hoped_score(terms, weights),
        box=box,
        cells=cells,
        support=result.support,
        sigma_px=refined.sigma_px,
        evidence=terms,
    )


def suppress(poses: list[ObjectPose], taken: Sequence[ObjectPose] = ()) -> list[ObjectPose]:
    """Best first; of poses of one class whose boxes overlap by more than SAME_OBJECT the best alone, and none
    of those that overlap one of ``taken`` so."""
    kept = list(taken)
    for pose in sorted(poses, key=lambda p: -p.score):
        if all(k.object_id != pose.object_id or overlap(k.box, pose.box) <= SAME_OBJECT for k in kept):
            kept.append(pose)
    return kept[len(taken) :]


def with_track(pose: ObjectPose, track_id: int | None) -> ObjectPose:
    return ObjectPose(**{**pose.__dict__, "track_id": track_id})
