"""VSD on a recording: depth images that go with the pictures, and what they say of estimates and truth."""

from __future__ import annotations

import contextlib
import struct
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ..core.object_model import ObjectModel
from ..core.sensor_messages import DEPTH, UnusableMessage, image_to_array
from ..datasets.faults import DatasetError
from ..datasets.values import METRES
from ..recordings.bags import Bag, BagError, RawMessage, read_stamp
from ..recordings.cdr import decode
from ..recordings.images import IMAGE, BagFrame
from .edges import Silhouette
from .frames import measured, pose_of
from .vsd import Caster, Rays, Sensor, vsd_of_pairs

NEAR_NS = 10_000_000  # at 0.1 m/s an object moves 1 mm in that time


class DepthImages:
    """The depth images of a topic, found by the stamps of pictures; read once, side by side with them.

    bag: opened for them alone, since an MCAP file without its index is read from one place. Raises BagError:
    no such topic, or not of images.
    """

    def __init__(self, bag: Bag, topic: str):
        self.topic = topic
        if (kind := bag.pick([topic])[0].type) != IMAGE:
            raise BagError(f"--depth: {topic} is {kind}; wanted {IMAGE}")
        self._messages: Iterator[RawMessage] = bag.readable([topic])
        self._near: deque[tuple[int, RawMessage]] = deque()

    def at(self, frame: BagFrame) -> np.ndarray:
        """Metres (H, W), 0 where nothing was measured. Raises UnusableMessage: none that fits the picture."""
        message = decode(self._nearest(frame.stamp_ns))
        if message.encoding not in DEPTH:
            wanted = " or ".join(DEPTH)
            raise UnusableMessage("encoding", f"{self.topic} is {message.encoding}; wanted {wanted}")
        size, place = (message.width, message.height), message.header.frame_id
        if size != (frame.camera.width, frame.camera.height) or place != frame.frame_id:
            raise UnusableMessage(
                "depth",
                f"{self.topic} is {size[0]}x{size[1]} of frame {place!r}; wanted depth registered to the "
                f"pictures, {frame.camera.width}x{frame.camera.height} of {frame.frame_id!r}",
            )
        values = np.array(image_to_array(message), float) * (METRES if message.encoding == "16UC1" else 1.0)
        return np.where(np.isfinite(values), values, 0.0)

    def _nearest(self, stamp_ns: int) -> RawMessage:
        while not self._near or self._near[-1][0] < stamp_ns:
            if (message := next(self._messages, None)) is None:
                break
            with contextlib.suppress(struct.error, IndexError):  # too short for a stamp: no message at all
                if (stamp := read_stamp(message.data)) >= stamp_ns - NEAR_NS:
                    self._near.append((stamp, message))
        while self._near and self._near[0][0] < stamp_ns - NEAR_NS:
            self._near.popleft()
        stamp, message = min(self._near, key=lambda one: abs(one[0] - stamp_ns), default=(0, None))
        if message is None or abs(stamp - stamp_ns) >= NEAR_NS:
            raise UnusableMessage("depth", f"{self.topic}: no depth within {NEAR_NS / 1e6:g} ms of a picture")
        return message


@dataclass
class DepthJudge:
    """Measures VSD of a frame's estimates."""

    depth: DepthImages
    caster: Caster
    objects: Mapping[int, ObjectModel]
    _rays: Rays | None = None

    @classmethod
    def make(cls, bag: Bag, topic: str, shapes: Mapping[int, Silhouette], objects) -> DepthJudge:
        """bag: as ``DepthImages`` wants it. shapes: what --mesh says; objects without are left out. Raises
        BagError: no such topic, no shape at all, no open3d."""
        if not shapes:
            raise BagError("--depth: VSD renders the objects: wanted --mesh, too")
        try:
            caster = Caster({key: (shape.vertices, triangles(shape.faces)) for key, shape in shapes.items()})
        except DatasetError as error:
            raise BagError(f"--depth: {error}") from error
        return cls(DepthImages(bag, topic), caster, {key: objects[key] for key in shapes})

    def measure(self, frame: BagFrame, record: dict) -> dict:
        """``vsd``: errors (E, G, T) by object id, between all measured estimates and true poses; or
        ``depth_fault``: why there are none."""
        try:
            depth = self.depth.at(frame)
        except UnusableMessage as error:
            return {"depth_fault": str(error)}
        rays = self._rays_of(frame)
        sensor = Sensor(rays, rays.to_distance(depth))
        sides = [record["estimates"][i] for i in measured(record)], record["truth"]
        errors = {
            str(key): vsd_of_pairs(self.caster, model, *(poses(side, key) for side in sides), sensor).tolist()
            for key, model in self.objects.items()
        }
        return {"vsd": errors}

    def _rays_of(self, frame: BagFrame) -> Rays:
        """Those of the last picture, if its camera was the same: they take longer to make than to use."""
        made = Rays.of(frame.camera)
        if self._rays is None or not self._rays.same(made):
            self._rays = made
        return self._rays


def poses(entries: list[dict], object_id: int) -> list[np.ndarray]:
    return [pose_of(entry) for entry in entries if entry["object_id"] == object_id]


def triangles(faces: np.ndarray) -> np.ndarray:
    """Faces (F, 3) or (F, 4) as triangles."""
    faces = np.asarray(faces)
    return faces if faces.shape[1] == 3 else np.concatenate([faces[:, [0, 1, 2]], faces[:, [0, 2, 3]]])
