# SPDX-License-Identifier: Apache-2.0
"""Regions that somebody gives on a topic: the newest ones, once, and a word on those that are not used."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from vision_msgs.msg import Detection2DArray

from ..core.sensor_messages import to_seconds
from ..pipeline.region import Region
from .decode_messages import decode_regions
from .health import Health

REGIONS_AGE_S = 1.0  # regions farther than this from an image's stamp are not about it
FORGET_S = 10.0  # without a message for so long, the last one's warning ends


class GivenRegions:
    """The newest Detection2DArray. What is not used of it is counted, and warned of if it looks mistaken."""

    def __init__(self, health: Health):
        self._health, self._newest = health, None
        self._lock, self._last = threading.Lock(), time.monotonic()  # put and take run in two threads
        self._known_class = False  # whether a box was ever of a class that the bundle knows

    def put(self, message: Detection2DArray) -> None:
        """Take a message from its subscription."""
        with self._lock:
            self._newest, self._last = message, time.monotonic()

    def take(self, stamp: float, ids: Mapping[str, int], most: int) -> list[Region]:
        """Return at most ``most`` regions, once, if they are about an image of ``stamp``; ids: by class name.

        Where there are more boxes, those with the highest scores. Raises UnusableMessage as `decode_regions`.
        """
        with self._lock:
            message, self._newest = self._newest, None
            silent = time.monotonic() - self._last > FORGET_S
        if message is None:
            if silent:
                self._health.warn("regions", "")
            return []
        boxes, given = message.detections, to_seconds(message.header.stamp)
        if abs(given - stamp) > REGIONS_AGE_S:
            self._health.ignore("stamp", len(boxes))
            found = f"one {given - stamp:+.1f} s away" if given else "none"
            wanted = f"the stamp of the image that they are about, within {REGIONS_AGE_S:g} s"
            self._health.warn("regions", f"regions are not used: wanted {wanted}, found {found}")
            return []
        if len(boxes) > most:
            message.detections = sorted(boxes, key=_score, reverse=True)
        regions = decode_regions(message, ids)
        unknown = len(boxes) - len(regions)
        self._known_class |= bool(regions)
        self._health.ignore("class_or_size", unknown)
        self._health.ignore("over_max_instances", max(0, len(regions) - most))
        classes = sorted({result.hypothesis.class_id for box in boxes for result in box.results})
        text = f"regions are not used: wanted boxes of {', '.join(ids)} or without a class, with an extent, "
        text += f"found {', '.join(map(repr, classes[:5])) or 'none with an extent'}"
        self._health.warn("regions", text if unknown and not self._known_class else "")
        return regions[:most]


def _score(box) -> float:
    return max((result.hypothesis.score for result in box.results), default=0.0)
