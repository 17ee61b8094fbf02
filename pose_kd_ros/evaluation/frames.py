"""One line of frames.jsonl an image: what was estimated, what is true, and how far the two are apart.

Everything but ``latency_ms`` and ``stages_ms`` is the same each time on one machine. Beyond the keys that all
evaluations share, a line says ``judged`` (whether anything is known of its true poses) and, of an estimate,
``consistency_px`` (how far the corners of its box moved in the image from where its track expected them) and,
with a mesh, ``edge_px`` and ``edge_agreement``, see ``shapes``. With depth images it says ``vsd``: errors
(E, G, T) between measured estimates and true poses by object id, see ``vsd``; or ``depth_fault``: why not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..core.camera import Camera
from ..core.metrics import add, add_s, match
from ..core.object_model import ObjectModel
from ..core.pose import transform
from ..core.track import Track
from ..datasets.bop import BopImage, BopInstance
from ..pipeline.follow import Followed
from ..pipeline.region import projected_box
from ..pipeline.solve import ObjectPose
from ..recordings.images import BagFrame
from .matching import NEAR, Group, compare
from .shapes import Silhouette
from .truth import TruePose
from .vsd import TAUS

MEASURED = ("new", "tracked")  # states of tracks that were seen in the frame, which the node publishes
TIMES = ("latency_ms", "stages_ms")  # what differs from run to run


def to_record(
    frame: BagFrame,
    followed: Followed,
    expected: Sequence[Track],
    true: Sequence[TruePose] | None,
    objects: Mapping[int, ObjectModel],
    points: Mapping[int, np.ndarray],
    silhouettes: Mapping[int, Silhouette],
    latency_ms: float,
) -> dict:
    """Return a line. expected: the tracks as predicted before. true: None where nothing is known.

    points: (V, 3) metres of each object, over which errors are measured.
    """
    camera = frame.camera
    before = {track.id: track.pose for track in expected}
    estimates = [
        _estimate(track, before.get(track.id), objects[track.object_id], frame, silhouettes)
        for track in followed.tracks
    ]
    record = {
        "frame": frame.frame,
        "stamp_ns": frame.stamp_ns,
        "camera": frame.frame_id,
        "width": camera.width,
        "height": camera.height,
        "K": camera.K.reshape(-1).tolist(),
        "latency_ms": latency_ms,
        "stages_ms": followed.stages_ms,
        "estimates": estimates,
        "judged": true is not None,
        "truth": [_true(pose, objects, camera) for pose in true or () if pose.object_id in objects],
    }
    return record | {"errors": errors(record, objects, points)}


def _estimate(track: Track, expected, model: ObjectModel, frame: BagFrame, silhouettes) -> dict:
    box = projected_box(track.pose, model, frame.camera)
    entry = {
        "object_id": track.object_id,
        "class_name": model.name,
        "track_id": track.id,
        "state": track.state,
        "score": float(track.score),
        "T_camera_object": track.pose.reshape(-1).tolist(),
        "covariance": track.covariance.reshape(-1).tolist(),
        "box": None if box is None else box.tolist(),
        "sigma_px": None if track.measured is None else float(track.measured.sigma_px),
        "consistency_px": None,
    }
    if track.state not in MEASURED:
        return entry
    if expected is not None:
        gap = [frame.camera.project(transform(pose, model.corners())) for pose in (track.pose, expected)]
        distance = float(np.linalg.norm(gap[0] - gap[1], axis=1).mean())
        entry["consistency_px"] = distance if np.isfinite(distance) else None
    if track.object_id in silhouettes:
        edge = silhouettes[track.object_id].agreement(frame.image, track.pose, frame.camera)
        entry["edge_px"], entry["edge_agreement"] = edge
    return entry


def _true(pose: TruePose, objects: Mapping[int, ObjectModel], camera: Camera) -> dict:
    """An instance out of view counts as not visible at all; how much is hidden nobody says."""
    seen = projected_box(pose.T_camera_object, objects[pose.object_id], camera) is not None
    values = np.asarray(pose.T_camera_object, float).reshape(-1).tolist()
    return {"object_id": pose.object_id, "T_camera_object": values, "visib_fract": float(seen)}


def measured(record: dict) -> list[int]:
    """Indices of the estimates that were measured in a frame."""
    return [i for i, one in enumerate(record["estimates"]) if one["state"] in MEASURED]


def pose_of(entry: dict) -> np.ndarray:
    """The (4, 4) pose of an estimate or a truth."""
    return np.array(entry["T_camera_object"], float).reshape(4, 4)


def poses_of(record: dict) -> list[ObjectPose]:
    """The measured estimates as the comparison knows them; their covariances and boxes are left out."""
    return [
        ObjectPose(one["object_id"], pose_of(one), np.eye(6), one["score"], np.zeros(4), 0, 0.0, 0.0)
        for one in (record["estimates"][i] for i in measured(record))
    ]


def groups(record: dict, objects: Mapping[int, ObjectModel], points: Mapping[int, np.ndarray]) -> list[Group]:
    """The measured estimates and the truth of a frame, object by object, as ``matching`` compares them."""
    K = np.array(record["K"], float).reshape(3, 3)
    true = tuple(
        BopInstance(one["object_id"], pose_of(one), None, None, one["visib_fract"], None)
        for one in record["truth"]
    )
    image = BopImage(0, record["frame"], Path(), K, None, 1.0, true)
    found = compare(image, record["width"], poses_of(record), objects, points)
    seen = record.get("vsd", {})
    return [_with_vsd(one, seen[str(one.object_id)]) if str(one.object_id) in seen else one for one in found]


def _with_vsd(group: Group, errors: list) -> Group:
    """The group with errors (E, G, T), whose shape a list without estimates does not tell."""
    return replace(group, vsd=np.array(errors, float).reshape(*group.mssd.shape, len(TAUS)))


def errors(record: dict, objects: Mapping[int, ObjectModel], points: Mapping[int, np.ndarray]) -> list[dict]:
    """How far the matched estimate of each true instance is off, in the order of ``truth``; null without one.

    Matched best score first to the nearest instance within two diameters (MSSD). ``mspd_px``: pixels of the
    image as it is, not of one 640 wide.
    """
    result: list[dict] = []
    for group in groups(record, objects, points):
        model = objects[group.object_id]
        own = [i for i in measured(record) if record["estimates"][i]["object_id"] == group.object_id]
        places = [i for i, one in enumerate(record["truth"]) if one["object_id"] == group.object_id]
        matches = match(group.mssd, group.scores, NEAR).tolist()
        for column, place in enumerate(places):
            row = matches.index(column) if column in matches else None
            entry = {
                "object_id": group.object_id,
                "truth": place,
                "estimate": None if row is None else own[row],
            }
            values = dict.fromkeys(
                ("mssd_d", "mspd_px", "add_d", "adds_d", "translation_m", "rotation_rad"), None
            )
            if row is not None:
                pair = pose_of(record["estimates"][own[row]]), pose_of(record["truth"][place])
                values = {
                    "mssd_d": float(group.mssd[row, column]),
                    "mspd_px": float(group.mspd[row, column]) * record["width"] / 640,
                    "add_d": float(add(*pair, points[model.id])) / model.diameter,
                    "adds_d": float(add_s(*pair, points[model.id])) / model.diameter,
                    "translation_m": float(group.shift[row, column]),
                    "rotation_rad": float(group.turn[row, column]),
                }
            result.append(entry | values)
    return sorted(result, key=lambda one: one["truth"])
