# SPDX-License-Identifier: Apache-2.0
"""The pictures of one camera of a recording, each with the camera that took it.

A CameraInfo holds for the pictures of its frame_id and size until the next of these comes, and the first also
for those before it; stamps are never matched.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import yaml

from ..core.camera import Camera
from ..core.sensor_messages import DEPTH, UnusableMessage, compressed_to_rgb, image_to_rgb, info_to_camera
from .bags import Bag, BagError, RawMessage
from .cdr import decode, nanoseconds

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
INFO = "sensor_msgs/msg/CameraInfo"


@dataclass(frozen=True)
class BagFrame:
    """One picture. frame: its number among the topic's messages, from 0, unusable ones counted.

    stamp_ns: of its header. image: (H, W, 3) uint8 RGB.
    """

    frame: int
    stamp_ns: int
    frame_id: str
    image: np.ndarray
    camera: Camera


class BagImages:
    """Reads the pictures of a topic. faults: what was wrong with messages and the recording, and how often.
    refused: how many pictures could not be used.

    topic: an Image or CompressedImage topic; None where there is but one camera. camera: instead of recorded
    CameraInfo. Raises BagError: no such camera, several to choose from, or none with a calibration.
    """

    def __init__(self, bag: Bag, topic: str | None = None, camera: Camera | None = None):
        self.bag, self.camera, self.faults = bag, camera, Counter(bag.faults)
        self.topic = topic or only_camera(bag)
        if bag.pick([self.topic])[0].type not in (IMAGE, COMPRESSED):
            found = bag.topics[self.topic].type
            raise BagError(f"{self.topic}: wanted {IMAGE} or {COMPRESSED}, found {found}")
        self._infos = [one.name for one in bag.topics.values() if one.type == INFO and one.count]
        if camera is None and not self._infos:
            raise BagError(
                f"{bag.path.name} holds no CameraInfo: give the camera's calibration with --camera-info FILE"
            )
        self._broken, self.refused = False, 0
        self._cameras: dict[tuple[str, int, int], Camera | UnusableMessage] = {}
        for name in self._infos:
            for message in self._first(name):
                self._latch(message)

    @property
    def damaged(self) -> bool:
        """Whether the recording could not be read as a whole, as far as is known by now."""
        return self._broken or bool(self.bag.faults)

    def info_keys(self) -> Iterator[tuple[str, tuple[str, int, int]]]:
        """Yield each CameraInfo topic with the frame_id and the size (width, height) of its first message."""
        for name in self._infos:
            for message in self._first(name):
                info = decode(message)
                yield name, (info.header.frame_id, info.width, info.height)

    @property
    def count(self) -> int:
        """How many pictures the recording says to hold."""
        return self.bag.topics[self.topic].count

    def frames(self) -> Iterator[BagFrame]:
        """Yield the usable pictures; the others are counted in ``faults``.

        Where a recording is damaged the iteration ends, and ``faults`` says so.
        """
        number = -1
        try:
            for message in self.bag.messages([self.topic, *self._infos]):
                if message.topic != self.topic:
                    self._latch(message)
                    continue
                number += 1
                if (frame := self._frame(number, message)) is not None:
                    yield frame
        except BagError as error:
            self._broken = True
            self.faults[str(error)] += 1
            return
        if number + 1 < self.count:  # the reader skips broken records without an error
            self._broken = True
            lost = f"{self.count} messages of {self.topic} were recorded, {number + 1} could be read"
            self.faults[f"{self.bag.path.name} is damaged: {lost}"] += 1

    def refuse(self, fault: str) -> None:
        """Count a picture that cannot be used, and why."""
        self.refused += 1
        self.faults[fault] += 1

    def _first(self, topic: str) -> Iterator[RawMessage]:
        with contextlib.suppress(BagError):  # reported where the images are read
            yield from itertools.islice(self.bag.messages([topic]), 1)

    def _latch(self, message: RawMessage) -> None:
        try:
            info = decode(message)
        except UnusableMessage as error:
            self.faults[str(error)] += 1
            return
        key = info.header.frame_id, info.width, info.height
        try:
            self._cameras[key] = info_to_camera(info)
        except UnusableMessage as error:
            self._cameras[key] = error

    def _frame(self, number: int, message: RawMessage) -> BagFrame | None:
        try:
            picture = decode(message)
            image = (compressed_to_rgb if message.type == COMPRESSED else image_to_rgb)(picture)
            header = picture.header
            camera = self._camera_for(header.frame_id, image.shape[1], image.shape[0])
        except UnusableMessage as error:
            self.refuse(str(error))
            return None
        return BagFrame(number, nanoseconds(header.stamp), header.frame_id, image, camera)

    def _camera_for(self, frame_id: str, width: int, height: int) -> Camera:
        camera = self.camera or self._cameras.get((frame_id, width, height))
        if camera is None:
            known = ", ".join(f"{name!r} {w}x{h}" for name, w, h in self._cameras) or "none that can be read"
            raise UnusableMessage(
                "camera_info_missing",
                f"no CameraInfo is of frame {frame_id!r} and {width}x{height} (recorded: {known}); "
                "give the camera's calibration with --camera-info FILE",
            )
        if isinstance(camera, UnusableMessage):
            raise camera
        if (camera.width, camera.height) != (width, height):
            text = f"--camera-info: wanted {camera.width}x{camera.height}, found a {width}x{height} image"
            raise UnusableMessage("camera_info_size", text)
        return camera


def only_camera(bag: Bag) -> str:
    """Return the one topic with pictures; of a topic and its compressed twin the first. Raises BagError."""
    names = {one.name for one in bag.topics.values() if one.type in (IMAGE, COMPRESSED) and one.count}
    colour = sorted(name for name in names if not is_depth(bag, name))
    found = [name for name in colour if name.rpartition("/")[0] not in colour]
    if len(found) == 1:
        return found[0]
    if found:
        cameras = f"{bag.path.name} holds {len(found)} cameras"
        raise BagError(f"{cameras}: choose one with --camera: {', '.join(found)}")
    raise BagError(f"{bag.path.name} holds no pictures; its topics: {', '.join(bag.topics)}")


def is_depth(bag: Bag, topic: str) -> bool:
    """Whether a topic's first message is a depth image; False where that cannot be read."""
    try:
        first = decode(next(bag.messages([topic])))
    except (BagError, UnusableMessage, StopIteration):
        return False
    if hasattr(first, "encoding"):
        return first.encoding in DEPTH
    return first.format.startswith(DEPTH) or "compressedDepth" in first.format


def load_camera(path: Path) -> Camera:
    """Read a calibration file as ROS's camera_calibration writes it (image_width, camera_matrix, ...).

    Raises BagError that names the file and the field.
    """
    try:
        fields = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        info = SimpleNamespace(
            width=fields["image_width"],
            height=fields["image_height"],
            k=[float(value) for value in fields["camera_matrix"]["data"]],
            d=[float(value) for value in fields["distortion_coefficients"]["data"]],
            distortion_model=fields["distortion_model"],
            binning_x=0,
            binning_y=0,
            roi=SimpleNamespace(width=0, height=0),
        )
        return info_to_camera(info)
    except KeyError as error:
        raise BagError(f"{path}: wanted what camera_calibration writes, found no field {error}") from error
    except (OSError, TypeError, ValueError, IndexError, yaml.YAMLError) as error:
        raise BagError(f"{path}: no camera calibration: {error}") from error
