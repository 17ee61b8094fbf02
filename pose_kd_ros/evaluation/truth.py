# SPDX-License-Identifier: Apache-2.0
"""Where true poses come from: a topic or TF frames of the recording, or a CSV file.

Topics: PoseStamped, interpolated in time; PoseArray and Detection3DArray, whose stamps are those of pictures
to a millisecond. What is not in the camera's frame is carried there by TF.

CSV: a header line, then one line a pose: ``frame`` (number of the picture, from 0) or ``stamp_ns`` (of its
header), ``object_id``, and T_camera_object as 16 numbers, row by row, or as 7: tx ty tz qx qy qz qw. Metres.
Convention: ``frame,object_id,tx,ty,tz,qx,qy,qz,qw`` and ``0,1,0.1,0,0.5,0,0,0,1`` put object 1 of the first
picture 0.5 m before the camera and 0.1 m to the right, not turned.
"""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.object_model import ObjectModel
from ..core.pose import check_pose, from_quaternion, make_pose
from ..core.sensor_messages import decode_pose
from ..recordings.bags import Bag, BagError
from ..recordings.cdr import decode, nanoseconds
from ..recordings.images import BagFrame
from ..recordings.transforms import PoseSeries, Transforms

SAME_STAMP_NS = 1_000_000  # stamps that differ by less are the same picture's
STAMPED = "geometry_msgs/msg/PoseStamped"
ARRAY = "geometry_msgs/msg/PoseArray"
DETECTIONS = "vision_msgs/msg/Detection3DArray"
KEYS = ("frame", "stamp_ns")


@dataclass(frozen=True)
class TruePose:
    """One true instance in one picture. T_camera_object: (4, 4), metres."""

    object_id: int
    T_camera_object: np.ndarray


Truth = Callable[[BagFrame], "list[TruePose] | None"]  # None: nothing is known of this picture


@dataclass(frozen=True)
class Names:
    """Object ids by what the truth calls them: given ones first, then the bundle's class names and ids.

    Where the bundle has one object and nothing else is said, every name is that object's.
    """

    given: Mapping[str, int]
    objects: Mapping[int, ObjectModel]

    def id_of(self, name: str) -> int:
        """Return the object's id. Raises BagError for an unknown name."""
        classes = {model.name: key for key, model in self.objects.items()}
        known = {**{str(key): key for key in self.objects}, **classes, **self.given}
        if name in known:
            return known[name]
        if len(self.objects) == 1 and not self.given:
            return next(iter(self.objects))
        raise BagError(
            f"truth: wanted one of the objects {', '.join(known)}, found {name!r}: "
            f"say which with --object {name}=ID"
        )


def make_truth(source: str, bag: Bag, names: Names, faults: Counter[str] | None = None) -> Truth:
    """Return what gives the true poses of an image. source: ``tf:CHILD[,CHILD...]``, a topic or a file.

    faults: gets what is left out of it, and how often. Raises BagError: there is no such source, or it is not
    as it should be.
    """
    try:
        return _make_truth(source, bag, names, Counter() if faults is None else faults)
    except BagError:
        raise
    except ValueError as error:  # bytes that are no message
        raise BagError(f"truth: {source}: {error}") from error


def _make_truth(source: str, bag: Bag, names: Names, faults: Counter[str]) -> Truth:
    if source.startswith("tf:"):
        return from_tf(source[3:].split(","), read_transforms(bag, faults), names)
    if source in bag.topics:
        return from_topic(source, bag, names, faults)
    if Path(source).is_file():
        return from_csv(Path(source))
    raise BagError(f"truth: wanted tf:CHILD, a file, or a topic of {', '.join(bag.topics)}, found {source!r}")


def read_transforms(bag: Bag, faults: Counter[str]) -> Transforms:
    """Return the TF frames of a recording; ``faults`` gets those that are left out."""
    transforms = Transforms.read(bag)
    faults |= transforms.faults  # the largest count: several sources of truth read the same TF
    return transforms


def from_tf(children: list[str], transforms: Transforms, names: Names) -> Truth:
    """Truth by frames of TF that sit on the objects."""
    ids = {child: names.id_of(child) for child in children}
    missing = {child.lstrip("/") for child in children} - set(transforms.children)
    if missing:
        known = ", ".join(transforms.children) or "none"
        raise BagError(f"truth: wanted frames of TF, {known}, found {', '.join(sorted(missing))}")

    def at(frame: BagFrame) -> list[TruePose] | None:
        poses = {child: transforms.lookup(frame.frame_id, child, frame.stamp_ns) for child in children}
        return [TruePose(ids[c], pose) for c, pose in poses.items() if pose is not None] or None

    return at


def from_topic(topic: str, bag: Bag, names: Names, faults: Counter[str]) -> Truth:
    """Truth by a topic of poses, in any frame that TF connects to the camera's."""
    kind = bag.topics[topic].type
    readers = {STAMPED: _stamped, ARRAY: _array, DETECTIONS: _detections}
    if kind not in readers:
        raise BagError(f"truth: {topic}: wanted {', '.join(readers)}, found {kind}")
    entries: dict[int, tuple[str, list[TruePose]]] = {}
    for raw in bag.readable([topic]):
        message = decode(raw)
        try:
            poses = readers[kind](message, topic, names)
        except BagError:
            raise
        except ValueError as error:  # a quaternion of zeros: a tracker that has lost its object
            faults[f"{topic}: a pose is left out: {error}"] += 1
            continue
        entries[nanoseconds(message.header.stamp)] = message.header.frame_id, poses
    transforms = read_transforms(bag, faults)
    find = _interpolated(entries, topic) if kind == STAMPED else _nearest(entries)

    def at(frame: BagFrame) -> list[TruePose] | None:
        frame_id, poses = find(frame.stamp_ns)
        if poses is None:
            return None
        to_camera = transforms.lookup(frame.frame_id, frame_id, frame.stamp_ns)
        if to_camera is None:
            return None
        return [TruePose(pose.object_id, to_camera @ pose.T_camera_object) for pose in poses]

    return at


def _stamped(message, topic: str, names: Names) -> list[TruePose]:
    return [TruePose(names.id_of(topic), decode_pose(message.pose.position, message.pose.orientation))]


def _array(message, topic: str, names: Names) -> list[TruePose]:
    key = names.id_of(topic)
    return [TruePose(key, decode_pose(pose.position, pose.orientation)) for pose in message.poses]


def _detections(message, topic: str, names: Names) -> list[TruePose]:
    best = [max(d.results, key=lambda r: r.hypothesis.score) for d in message.detections if d.results]
    return [
        TruePose(
            names.id_of(result.hypothesis.class_id),
            decode_pose(result.pose.pose.position, result.pose.pose.orientation),
        )
        for result in best
    ]


def _interpolated(entries, topic: str):
    frames = sorted({frame_id for frame_id, _ in entries.values()})
    if len(frames) != 1:
        raise BagError(f"truth: {topic}: wanted poses in one frame, found {', '.join(frames) or 'none'}")
    poses = {stamp: true[0].T_camera_object for stamp, (_, true) in entries.items()}
    key, series = next(iter(entries.values()))[1][0].object_id, PoseSeries.of(poses)

    def find(stamp_ns: int):
        pose = series.at(stamp_ns)
        return frames[0], None if pose is None else [TruePose(key, pose)]

    return find


def _nearest(entries):
    stamps = np.array(sorted(entries), np.int64)

    def find(stamp_ns: int):
        gaps = np.abs(stamps - stamp_ns)
        if not len(gaps) or gaps.min() >= SAME_STAMP_NS:
            return "", None
        return entries[int(stamps[gaps.argmin()])]

    return find


def from_csv(path: Path) -> Truth:
    """Truth by a file laid out as the module's text says. Raises BagError that names file and line."""
    with open(path, newline="", encoding="utf-8-sig") as file:  # spreadsheets begin with a byte order mark
        rows = [(number, row) for number, row in enumerate(csv.reader(file), start=1) if row]
    head = [name.strip() for name in rows[0][1]] if rows else []
    if head[:1] not in ([key] for key in KEYS) or head[1:2] != ["object_id"] or len(head) not in (9, 18):
        wanted = "frame or stamp_ns, object_id, then 7 or 16 columns"
        raise BagError(f"{path}: line 1: wanted {wanted}, found {', '.join(head) or 'nothing'}")
    entries: dict[int, list[TruePose]] = defaultdict(list)
    for number, row in rows[1:]:
        key, pose = _csv_row(f"{path}: line {number}", row, len(head))
        entries[key].append(pose)
    if head[0] == "frame":
        return lambda frame: entries.get(frame.frame)
    find = _nearest({stamp: ("", poses) for stamp, poses in entries.items()})
    return lambda frame: find(frame.stamp_ns)[1]


def _csv_row(where: str, row: list[str], columns: int) -> tuple[int, TruePose]:
    if len(row) != columns:
        raise BagError(f"{where}: wanted {columns} columns as in line 1, found {len(row)}")
    try:
        key, object_id, values = int(row[0]), int(row[1]), np.array(row[2:], float)
        if len(values) == 16:
            pose = values.reshape(4, 4)
        else:
            pose = make_pose(from_quaternion(values[3:]), values[:3])
        return key, TruePose(object_id, check_pose(pose, "pose"))
    except ValueError as error:
        raise BagError(f"{where}: {error}") from error
