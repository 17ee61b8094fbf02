# SPDX-License-Identifier: Apache-2.0
"""Tracks and pixels to messages: detections, frames, markers, class table, status, images.

Convention: a pose is T_camera_object, metres, the object's origin in the image's optical
frame (x right, y down, z forward), or in the frame that the header names; quaternions are x, y, z, w; a
covariance is row-major over (x, y, z, rotation about x, y, z).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable

import numpy as np
from geometry_msgs.msg import Point, Pose, TransformStamped
from sensor_msgs.msg import Image
from std_msgs.msg import ColorRGBA, Header, String
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection3D, Detection3DArray, LabelInfo, ObjectHypothesisWithPose, VisionClass
from visualization_msgs.msg import Marker, MarkerArray

from ..core.object_model import ObjectModel
from ..core.pose import make_pose, to_quaternion
from ..core.track import Track

AXES = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


class FrameNames:
    """Gives each track a child frame, ``<prefix><class>[_<n>]``, that it keeps for
    life; numbers are reused later.

    Convention: the first cube is ``cube``, one seen beside it ``cube_2``. No two tracks have one name, also
    where a class is called ``cube_2`` or two classes are called ``cube``.
    """

    def __init__(self):
        self._given: dict[tuple[int, int], tuple[str, str]] = {}  # (object_id, track id): class, suffix

    def name(self, track, model: ObjectModel, prefix: str) -> str:
        key = (track.object_id, track.id)
        if key not in self._given:
            bare, taken = frame_name(model, ""), {"".join(parts) for parts in self._given.values()}
            suffixes = ["", *(f"_{n}" for n in range(2, len(taken) + 2))]
            self._given[key] = bare, next(one for one in suffixes if bare + one not in taken)
        return frame_name(model, prefix) + self._given[key][1]

    def keep(self, tracks: Iterable) -> None:
        """Forget all tracks but these."""
        alive = {(track.object_id, track.id) for track in tracks}
        self._given = {key: parts for key, parts in self._given.items() if key in alive}


def frame_name(model: ObjectModel, prefix: str) -> str:
    """Return the child frame of a class's first object; spaces become underscores. It begins with no slash:
    tf2 refuses such frames."""
    return (prefix + model.name.replace(" ", "_").lstrip("/")).lstrip("/")


def encode_pose(matrix: np.ndarray) -> Pose:
    """Return a (4, 4) transform as geometry_msgs/Pose."""
    pose = Pose()
    pose.position.x, pose.position.y, pose.position.z = (float(v) for v in matrix[:3, 3])
    quaternion = to_quaternion(matrix[:3, :3])
    pose.orientation.x, pose.orientation.y, pose.orientation.z, pose.orientation.w = (
        float(v) for v in quaternion
    )
    return pose


def array_to_image(array: np.ndarray, encoding: str, header) -> Image:
    """Return pixels (H, W[, C]) as an Image message in this machine's byte order.

    Assigning an array to ``data`` takes 75 ms at 640x480 or fails; filling the message's own takes 0.02 ms.
    """
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    message = Image(header=header, encoding=encoding, height=array.shape[0], width=array.shape[1])
    message.step = array.strides[0]
    message.is_bigendian = int(sys.byteorder == "big")
    message.data.frombytes(array.view(np.uint8).reshape(-1).data)
    return message


def box_pose(matrix: np.ndarray, model: ObjectModel) -> np.ndarray:
    """Return the pose (4, 4) of the centre of the object's box."""
    return matrix @ make_pose(np.eye(3), model.box_center)


def to_detection(track, model: ObjectModel, header: Header) -> Detection3D:
    """Return a track as Detection3D: ``id`` names the physical object, ``class_id`` is the class's name.

    results[0].pose is the object's origin, bbox its box.
    """
    detection = Detection3D(header=header, id=str(track.id))
    result = ObjectHypothesisWithPose()
    result.hypothesis.class_id, result.hypothesis.score = model.name, float(track.score)
    result.pose.pose = encode_pose(track.pose)
    result.pose.covariance = np.asarray(track.covariance, float).reshape(36)
    detection.results = [result]
    detection.bbox.center = encode_pose(box_pose(track.pose, model))
    size = detection.bbox.size
    size.x, size.y, size.z = (float(v) for v in model.box_size)
    return detection


def to_detections(tracks, models: dict[int, ObjectModel], header: Header) -> Detection3DArray:
    """Return the tracks' detections under a header; an empty array says that nothing was seen."""
    return Detection3DArray(
        header=header, detections=[to_detection(t, models[t.object_id], header) for t in tracks]
    )


def to_tf(named: Iterable[tuple[Track, str]], header: Header) -> TFMessage:
    """Return one transform per track, from the header's frame to the child frame that it is given with."""
    transforms = []
    for track, child in named:
        message = TransformStamped(header=header, child_frame_id=child)
        pose, to = encode_pose(track.pose), message.transform
        to.translation.x, to.translation.y, to.translation.z = (
            pose.position.x,
            pose.position.y,
            pose.position.z,
        )
        to.rotation = pose.orientation
        transforms.append(message)
    return TFMessage(transforms=transforms)


class MarkerBoard:
    """What RViz shows: a box and axes per track; DELETE for those that were shown before and are not now."""

    def __init__(self):
        self._shown: set[int] = set()

    def update(self, tracks, models: dict[int, ObjectModel], header: Header) -> MarkerArray:
        markers = [
            m
            for t in tracks
            for m in (_box(t, models[t.object_id], header), _axes(t, models[t.object_id], header))
        ]
        now = {t.id for t in tracks}
        for gone in sorted(self._shown - now):
            markers += [Marker(header=header, ns=ns, id=gone, action=Marker.DELETE) for ns in ("box", "axes")]
        self._shown = now
        return MarkerArray(markers=markers)

    def clear(self, header: Header) -> MarkerArray:
        """DELETE for everything that is shown."""
        return self.update([], {}, header)


def _box(track, model: ObjectModel, header: Header) -> Marker:
    marker = Marker(header=header, ns="box", id=track.id, type=Marker.CUBE, action=Marker.ADD)
    marker.pose = encode_pose(box_pose(track.pose, model))
    marker.scale.x, marker.scale.y, marker.scale.z = (float(v) for v in model.box_size)
    marker.color = ColorRGBA(r=0.1, g=0.8, b=0.3, a=0.4)
    return marker


def _axes(track, model: ObjectModel, header: Header) -> Marker:
    marker = Marker(header=header, ns="axes", id=track.id, type=Marker.LINE_LIST, action=Marker.ADD)
    marker.pose = encode_pose(track.pose)
    marker.scale.x = model.diameter / 40
    for axis in AXES:
        x, y, z = (a * model.diameter * 0.75 for a in axis)
        color = ColorRGBA(r=axis[0], g=axis[1], b=axis[2], a=1.0)
        marker.points += [Point(), Point(x=x, y=y, z=z)]
        marker.colors += [color, color]
    return marker


def to_label_info(models: dict[int, ObjectModel], threshold: float, header: Header) -> LabelInfo:
    """Return the table of the classes: the bundle's numbers and names, and the score threshold."""
    classes = [VisionClass(class_id=m.id, class_name=m.name) for m in models.values()]
    return LabelInfo(header=header, class_map=classes, threshold=float(threshold))


def to_object_table(bundle, models: dict[int, ObjectModel], prefix: str, output_frame: str = "") -> String:
    """Return what a user of the poses must know of the objects, as JSON: sizes in metres, origin in words.

    output_frame: that poses are in; empty: the image's.
    """
    origins = {spec.id: spec.origin for spec in bundle.manifest.objects}
    rows = [
        {
            "id": m.id,
            "class": m.name,
            "frame": frame_name(m, prefix),
            "diameter": m.diameter,
            "box_center": m.box_center.tolist(),
            "box_size": m.box_size.tolist(),
            "symmetries": len(m.symmetries),
            "origin": origins[m.id],
        }
        for m in models.values()
    ]
    frame = output_frame.lstrip("/")
    table = {"bundle": bundle.manifest.name, "units": "metres", "output_frame": frame, "objects": rows}
    return String(data=json.dumps(table))


def track_rows(tracks, models: dict[int, ObjectModel]) -> list[dict]:
    """Return what ~/status says of each track."""
    return [
        {"id": t.id, "class": models[t.object_id].name, "state": t.state, "score": round(float(t.score), 4)}
        for t in tracks
    ]
