# SPDX-License-Identifier: Apache-2.0
"""Frames are made here, of recordings and of data sets, and their estimates are matched with the truth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..core.camera import Camera
from ..core.metrics import add, add_s, match
from ..core.object_model import ObjectModel
from ..core.pose import transform
from ..core.track import MEASURED, Track
from ..datasets.bop import BopImage, BopInstance
from ..datasets.source import Source
from ..pipeline.follow import Followed
from ..pipeline.region import projected_box
from ..pipeline.solve import ObjectPose
from ..recordings.images import BagFrame
from .frame import Estimate, Frame, PoseError, TrueInstance
from .looks import Look
from .matching import FALSE_ALARM, ObjectMatches, match_image
from .shapes import Silhouette
from .truth import TruePose
from .vsd import TAUS

Objects = Mapping[int, ObjectModel]
Points = Mapping[int, np.ndarray]  # (V, 3) metres of each object, over which errors are measured


def frame_of_recording(
    image: BagFrame,
    followed: Followed,
    expected: Sequence[Track],
    true: Sequence[TruePose] | None,
    objects: Objects,
    points: Points,
    silhouettes: Mapping[int, Silhouette],
    latency_ms: float,
) -> Frame:
    """Return the frame of a recorded image.

    expected: the tracks as predicted before. true: None where nothing is known of its true poses.
    """
    before = {track.id: track.pose for track in expected}
    frame = Frame(
        image.frame,
        image.stamp_ns,
        image.frame_id,
        image.camera.width,
        image.camera.height,
        image.camera.K,
        latency_ms,
        followed.stages_ms,
        tuple(
            _estimate_of_track(track, before.get(track.id), objects[track.object_id], image, silhouettes)
            for track in followed.tracks
        ),
        true is not None,
        tuple(_true(pose, objects, image.camera) for pose in true or () if pose.object_id in objects),
    )
    return replace(frame, errors=pose_errors(frame, objects, points))


def frame_of_image(number: int, look: Look, objects: Objects, points: Points) -> Frame:
    """Return the frame of an image of a data set. Instances of objects that the
    bundle does not know are left out."""
    image, camera = look.image, look.camera
    frame = Frame(
        number,
        0,
        f"{image.scene_id:06d}/{image.image_id:06d}",
        camera.width,
        camera.height,
        camera.K,
        1e3 * look.seconds,
        look.found.stages_ms,
        tuple(_estimate_of_pose(pose, objects[pose.object_id]) for pose in look.found.poses),
        image.has_truth,
        tuple(
            TrueInstance(one.object_id, one.T_camera_object, one.visib_fract)
            for one in image.instances
            if one.object_id in objects
        ),
    )
    return replace(frame, errors=pose_errors(frame, objects, points))


def _estimate_of_pose(pose: ObjectPose, model: ObjectModel) -> Estimate:
    return Estimate(
        pose.object_id,
        model.name,
        None,
        "new",
        float(pose.score),
        pose.pose,
        pose.covariance,
        pose.box,
        float(pose.sigma_px),
        None,
    )


def _estimate_of_track(track: Track, expected, model: ObjectModel, image: BagFrame, silhouettes) -> Estimate:
    estimate = Estimate(
        track.object_id,
        model.name,
        track.id,
        track.state,
        float(track.score),
        track.pose,
        track.covariance,
        projected_box(track.pose, model, image.camera),
        float(track.measured.sigma_px) if isinstance(track.measured, ObjectPose) else None,
        None,
    )
    if track.state not in MEASURED:
        return estimate
    if expected is not None:
        gap = [image.camera.project(transform(pose, model.corners())) for pose in (track.pose, expected)]
        distance = float(np.linalg.norm(gap[0] - gap[1], axis=1).mean())
        estimate = replace(estimate, consistency_px=distance if np.isfinite(distance) else None)
    if track.object_id in silhouettes:
        edge = silhouettes[track.object_id].agreement(image.image, track.pose, image.camera)
        estimate = replace(estimate, edge_px=edge[0], edge_agreement=edge[1])
    return estimate


def _true(pose: TruePose, objects: Objects, camera: Camera) -> TrueInstance:
    """An instance out of view is not visible at all. Occlusion is unknown: recordings carry no visibility."""
    seen = projected_box(pose.T_camera_object, objects[pose.object_id], camera) is not None
    return TrueInstance(pose.object_id, np.asarray(pose.T_camera_object, float), float(seen))


def measured_poses(frame: Frame) -> list[ObjectPose]:
    """Return the measured estimates for matching; their covariances and boxes are left out."""
    return [
        ObjectPose(one.object_id, one.T_camera_object, np.eye(6), one.score, np.zeros(4), 0, 0.0, 0.0)
        for one in frame.measured_estimates
    ]


def matches_of(frame: Frame, objects: Objects, points: Points) -> list[ObjectMatches]:
    """Match the frame's measured estimates and its truth, object by object."""
    true = tuple(
        BopInstance(one.object_id, one.T_camera_object, None, None, one.visib_fract, None)
        for one in frame.truth
    )
    image = BopImage(0, frame.number, Source(Path()), frame.K, None, 1.0, true)
    found = match_image(image, frame.width, measured_poses(frame), objects, points)
    seen = frame.vsd or {}
    return [_with_vsd(one, seen[str(one.object_id)]) if str(one.object_id) in seen else one for one in found]


def _with_vsd(matches: ObjectMatches, errors: list) -> ObjectMatches:
    """Add errors (E, G, T), whose shape a list without estimates does not tell."""
    return replace(matches, vsd=np.array(errors, float).reshape(*matches.mssd.shape, len(TAUS)))


def pose_errors(frame: Frame, objects: Objects, points: Points) -> tuple[PoseError, ...]:
    """Return how far the matched estimate of each true instance is off, in the order of ``truth``.

    The best score comes first and takes the nearest instance within two diameters (MSSD).
    """
    errors = [
        error
        for matches in matches_of(frame, objects, points)
        for error in _errors_of_object(frame, matches, objects[matches.object_id], points)
    ]
    return tuple(sorted(errors, key=lambda one: one.truth))


def _errors_of_object(
    frame: Frame, matches: ObjectMatches, model: ObjectModel, points: Points
) -> Iterable[PoseError]:
    estimates = [i for i in frame.measured if frame.estimates[i].object_id == model.id]
    places = [i for i, one in enumerate(frame.truth) if one.object_id == model.id]
    matched = match(matches.mssd, matches.scores, FALSE_ALARM).tolist()
    for column, place in enumerate(places):
        if column not in matched:
            yield PoseError(model.id, place, None)
            continue
        row = matched.index(column)
        pair = frame.estimates[estimates[row]].T_camera_object, frame.truth[place].T_camera_object
        yield PoseError(
            model.id,
            place,
            estimates[row],
            mssd_d=float(matches.mssd[row, column]),
            mspd_px=float(matches.mspd[row, column]) * frame.width / 640,
            add_d=float(add(*pair, points[model.id])) / model.diameter,
            adds_d=float(add_s(*pair, points[model.id])) / model.diameter,
            translation_m=float(matches.shift[row, column]),
            rotation_rad=float(matches.turn[row, column]),
        )
