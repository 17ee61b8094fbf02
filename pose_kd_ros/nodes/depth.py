# SPDX-License-Identifier: Apache-2.0
"""The depth image of a frame: found by its stamp, waited for a little, refused where it is not aligned."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

import numpy as np
from sensor_msgs.msg import Image

from ..core.sensor_messages import UnusableMessage, depth_to_metres
from ..recordings.cdr import nanoseconds
from ..recordings.depth import SAME_STAMP_NS
from .health import Health

KEPT = 5  # newest depth images that wait for their frame
QUIET_S = 2.0  # without a depth image for so long, no frame waits for one, and the diagnosis says so


class DepthBuffer:
    """The newest depth images, and the one that the frame under way waits for.

    The executor puts messages in while the worker may wait in ``take``. sources: says who publishes depth.
    """

    def __init__(self, health: Health, sources: Callable[[], str]):
        self._health, self._sources = health, sources
        self._changed = threading.Condition()
        self._last = time.monotonic()  # when a message came, or when there was nothing yet
        self._waiting: deque[Image] = deque(maxlen=KEPT)
        self._wanted: int | None = None  # stamp of the frame under way
        self._match: Image | None = None
        health.count_depth("used", 0)

    def put(self, message: Image) -> None:
        """Take a message from its subscription."""
        with self._changed:
            self._last = time.monotonic()
            self._waiting.append(message)
            self._compare(message)
            self._changed.notify_all()

    def expect(self, stamp_ns: int) -> None:
        """Keep the depth image of a frame as soon as it is there, however many come until it is taken."""
        with self._changed:
            self._wanted, self._match = stamp_ns, None
            for message in self._waiting:
                self._compare(message)

    def take(self, frame_id: str, size: tuple[int, int], timeout_s: float) -> np.ndarray | None:
        """Return the depth image (H, W) of the expected frame, metres, 0 where nothing was measured.

        frame_id, size: of the image, width and height. Wait at most ``timeout_s`` seconds; None if there is
        none or it cannot be used, which is counted.
        """
        message = self._awaited(timeout_s)
        if message is None:
            self._health.count_depth("missing")
            return None
        try:
            found = (message.width, message.height), message.header.frame_id
            if found != (size, frame_id):
                raise UnusableMessage(
                    "not_aligned",
                    f"depth: wanted {size[0]}x{size[1]} of {frame_id!r}, as the image is, "
                    f"found {message.width}x{message.height} of {message.header.frame_id!r}",
                )
            metres = depth_to_metres(message)
        except UnusableMessage as error:
            self._health.count_depth(f"refused_{error.reason}")
            self._health.warn("depth", str(error))
            return None
        self._health.count_depth("used")
        self._health.warn("depth", "")
        return metres

    def clear(self) -> None:
        """Forget all depth images: time went back."""
        with self._changed:
            self._waiting.clear()
            self._wanted = self._match = None

    def _awaited(self, timeout_s: float) -> Image | None:
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while self._match is None and not self._is_hopeless():
                if (left := deadline - time.monotonic()) <= 0:
                    break
                self._changed.wait(left)
            match, self._match, self._wanted = self._match, None, None
            silent = time.monotonic() - self._last
        if match is None and silent > QUIET_S:
            text = f"depth: wanted depth images, found none for {silent:.0f} s ({self._sources()})"
            self._health.warn("depth", text)
        elif match is None:
            near = f"{SAME_STAMP_NS / 1e6:g} ms"
            self._health.warn("depth", f"depth: wanted one within {near} of each image, found none in time")
        return match

    def _is_hopeless(self) -> bool:
        """Whether no depth image of the frame is to come: a later one is there, or the stream has ended."""
        if self._wanted is None or time.monotonic() - self._last > QUIET_S:
            return True
        newest = max(map(_stamp, self._waiting), default=self._wanted)
        return newest > self._wanted + SAME_STAMP_NS

    def _compare(self, message: Image) -> None:
        if self._wanted is None:
            return
        gap = abs(_stamp(message) - self._wanted)
        best = SAME_STAMP_NS if self._match is None else abs(_stamp(self._match) - self._wanted)
        if gap < best:
            self._match = message


def _stamp(message: Image) -> int:
    return nanoseconds(message.header.stamp)
