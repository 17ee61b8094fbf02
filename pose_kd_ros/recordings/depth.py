# SPDX-License-Identifier: Apache-2.0
"""Depth images of a recording that are registered to the images of a camera."""

from __future__ import annotations

import contextlib
import struct
from collections import deque
from collections.abc import Iterator

import numpy as np

from ..core.sensor_messages import UnusableMessage, depth_to_metres
from .bags import Bag, BagError, RawMessage, read_stamp
from .cdr import decode
from .images import IMAGE, BagFrame

SAME_STAMP_NS = 10_000_000  # at 0.1 m/s an object moves 1 mm in that time


class DepthImages:
    """The depth images of a topic, found by the stamps of pictures; read once, side by side with them.

    bag: opened for them alone, since an MCAP file without its index is read from one place. Raises BagError:
    no such topic, or not of images.
    """

    def __init__(self, bag: Bag, topic: str):
        self.topic = topic
        if (kind := bag.pick([topic])[0].type) != IMAGE:
            raise BagError(f"--depth: {topic}: wanted {IMAGE}, found {kind}")
        self._messages: Iterator[RawMessage] = bag.readable([topic])
        self._near: deque[tuple[int, RawMessage]] = deque()

    def at(self, frame: BagFrame) -> np.ndarray:
        """Metres (H, W), 0 where nothing was measured. Raises UnusableMessage: none that fits the picture."""
        message = decode(self._nearest(frame.stamp_ns))
        size, place = (message.width, message.height), message.header.frame_id
        if size != (frame.camera.width, frame.camera.height) or place != frame.frame_id:
            raise UnusableMessage(
                "depth",
                f"{self.topic}: wanted depth registered to the pictures, {frame.camera.width}x"
                f"{frame.camera.height} of {frame.frame_id!r}, found {size[0]}x{size[1]} of {place!r}",
            )
        return depth_to_metres(message, self.topic, np.float64)

    def _nearest(self, stamp_ns: int) -> RawMessage:
        while not self._near or self._near[-1][0] < stamp_ns:
            if (message := next(self._messages, None)) is None:
                break
            with contextlib.suppress(struct.error, IndexError):  # too short for a stamp: no message at all
                if (stamp := read_stamp(message.data)) >= stamp_ns - SAME_STAMP_NS:
                    self._near.append((stamp, message))
        while self._near and self._near[0][0] < stamp_ns - SAME_STAMP_NS:
            self._near.popleft()
        stamp, message = min(self._near, key=lambda one: abs(one[0] - stamp_ns), default=(0, None))
        if message is None or abs(stamp - stamp_ns) >= SAME_STAMP_NS:
            near = f"{SAME_STAMP_NS / 1e6:g} ms"
            raise UnusableMessage("depth", f"{self.topic}: no depth within {near} of a picture")
        return message
