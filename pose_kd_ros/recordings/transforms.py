# SPDX-License-Identifier: Apache-2.0
"""TF of a recording: static and dynamic frames, interpolated in time."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np

from ..core.pose import between, inverse
from ..core.sensor_messages import decode_pose
from .bags import Bag
from .cdr import decode, nanoseconds

TF = "tf2_msgs/msg/TFMessage"
LONGEST_GAP_NS = 500_000_000  # between two poses; no interpolation over a longer one


@dataclass(frozen=True)
class PoseSeries:
    """Poses (N, 4, 4) of one frame over time; stamps_ns: (N,) int64, increasing."""

    stamps_ns: np.ndarray
    poses: np.ndarray

    @classmethod
    def of(cls, entries: dict[int, np.ndarray]) -> PoseSeries:
        """From poses (4, 4) by stamp, in any order."""
        stamps = sorted(entries)
        return cls(np.array(stamps, np.int64), np.array([entries[stamp] for stamp in stamps]))

    def at(self, stamp_ns: int) -> np.ndarray | None:
        """The pose (4, 4) at a time, None before the first, after the last and in long gaps.

        Convention: translations on the straight line, rotations on the shortest turn;
        halfway from 0 to 90 degrees is 45.
        """
        after = int(np.searchsorted(self.stamps_ns, stamp_ns))
        if after < len(self.stamps_ns) and self.stamps_ns[after] == stamp_ns:
            return self.poses[after]
        if not 0 < after < len(self.stamps_ns):
            return None
        start, end = self.stamps_ns[after - 1 : after + 1]
        if end - start > LONGEST_GAP_NS:
            return None
        return between(self.poses[after - 1], self.poses[after], float(stamp_ns - start) / float(end - start))


class Transforms:
    """The TF frames of a recording, each with its parent.

    faults: transforms that no robot would use, and how many of each; they are left out, as tf2 does.
    """

    def __init__(self):
        self.faults: Counter[str] = Counter()
        self._static: dict[str, tuple[str, np.ndarray]] = {}
        self._dynamic: dict[str, tuple[str, PoseSeries]] = {}

    @classmethod
    def read(cls, bag: Bag) -> Transforms:
        """From all TF topics; one that ends in _static holds at all times. Raises UnusableMessage."""
        made = cls()
        moving: dict[tuple[str, str], dict[int, np.ndarray]] = defaultdict(dict)
        topics = [one.name for one in bag.topics.values() if one.type == TF]
        for message in bag.readable(topics) if topics else ():
            for one in decode(message).transforms:
                parent, child = one.header.frame_id.lstrip("/"), one.child_frame_id.lstrip("/")
                try:
                    pose = decode_pose(one.transform.translation, one.transform.rotation)
                except ValueError as error:
                    made.faults[f"{message.topic}: {child!r} in {parent!r} is left out: {error}"] += 1
                    continue
                if message.topic.endswith("_static"):
                    made._static[child] = parent, pose
                else:
                    moving[parent, child][nanoseconds(one.header.stamp)] = pose
        made._dynamic = {child: (parent, PoseSeries.of(poses)) for (parent, child), poses in moving.items()}
        return made

    @property
    def children(self) -> list[str]:
        """All frames that have a parent."""
        return sorted({*self._static, *self._dynamic})

    def lookup(self, target: str, source: str, stamp_ns: int) -> np.ndarray | None:
        """Return ``T_target_source`` (4, 4) at a time, None where no chain of frames connects them."""
        target, source = target.lstrip("/"), source.lstrip("/")
        if target == source:
            return np.eye(4)
        to_source = dict(self._upwards(source, stamp_ns))
        for frame, T_frame_target in self._upwards(target, stamp_ns):
            if frame in to_source:
                return inverse(T_frame_target) @ to_source[frame]
        return None

    def _upwards(self, frame: str, stamp_ns: int):
        """Yield (ancestor, T_ancestor_frame), the frame itself first."""
        pose, seen = np.eye(4), {frame}
        yield frame, pose
        while (step := self._parent(frame, stamp_ns)) is not None and step[0] not in seen:
            frame, pose = step[0], step[1] @ pose
            seen.add(frame)
            yield frame, pose

    def _parent(self, frame: str, stamp_ns: int) -> tuple[str, np.ndarray] | None:
        if frame in self._static:
            return self._static[frame]
        if frame not in self._dynamic:
            return None
        parent, series = self._dynamic[frame]
        pose = series.at(stamp_ns)
        return None if pose is None else (parent, pose)
