# SPDX-License-Identifier: Apache-2.0
"""TF of a recording or a live system: static and dynamic frames, interpolated in time, never extrapolated."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import Any

import numpy as np

from ..core.pose import between, inverse
from ..core.sensor_messages import decode_pose
from .bags import Bag
from .cdr import decode, nanoseconds

TF = "tf2_msgs/msg/TFMessage"
LONGEST_GAP_NS = 500_000_000  # between two poses; no interpolation over a longer one
MOST_FRAMES = 1000  # of a live system: memory stays bounded whatever is published
NAMED = 20  # frames that a refusal lists at most


class PoseSeries:
    """Poses (4, 4) of one frame over time, in the order of their stamps."""

    def __init__(self) -> None:
        self._stamps: list[int] = []
        self._poses: list[np.ndarray] = []

    @classmethod
    def of(cls, entries: dict[int, np.ndarray]) -> PoseSeries:
        """From poses (4, 4) by stamp, in any order."""
        made = cls()
        for stamp in sorted(entries):
            made.add(stamp, entries[stamp])
        return made

    def add(self, stamp_ns: int, pose: np.ndarray, keep_ns: int | None = None) -> None:
        """Take a pose; forget those that are older than the newest by more than ``keep_ns``.

        A pose that is itself so much older says that time went back: it begins the series again.
        """
        stamps, poses = self._stamps, self._poses
        if keep_ns is not None and stamps and stamp_ns < stamps[-1] - keep_ns:
            del stamps[:], poses[:]
        place = bisect_left(stamps, stamp_ns)
        if stamps[place : place + 1] == [stamp_ns]:
            poses[place] = pose
        else:
            stamps.insert(place, stamp_ns)
            poses.insert(place, pose)
        if keep_ns is not None and (old := bisect_left(stamps, stamps[-1] - keep_ns)):
            del stamps[:old], poses[:old]

    def at(self, stamp_ns: int) -> np.ndarray | None:
        """The pose (4, 4) at a time, None before the first, after the last and in long gaps.

        Convention: translations on the straight line, rotations on the shortest turn;
        halfway from 0 to 90 degrees is 45.
        """
        after = bisect_left(self._stamps, stamp_ns)
        if self._stamps[after : after + 1] == [stamp_ns]:
            return self._poses[after]
        if not 0 < after < len(self._stamps):
            return None
        start, end = self._stamps[after - 1 : after + 1]
        if end - start > LONGEST_GAP_NS:
            return None
        return between(self._poses[after - 1], self._poses[after], (stamp_ns - start) / (end - start))

    def in_words(self, stamp_ns: int) -> str:
        """Say what there is about a time."""
        first, last = self._stamps[0], self._stamps[-1]
        if first < stamp_ns < last:
            return f"none for {LONGEST_GAP_NS * 1e-9:g} s about it"
        return f"stamps from {first * 1e-9:.3f} to {last * 1e-9:.3f} s"


class Transforms:
    """The TF frames of a recording or a live system, each with its parent.

    keep_ns: moving frames are forgotten when they are older than the newest one by more; None keeps all.
    faults: transforms of a recording that no robot would use, and how many of each; they are left out, as
    tf2 does.
    """

    def __init__(self, keep_ns: int | None = None) -> None:
        self.faults: Counter[str] = Counter()
        self._keep_ns = keep_ns
        self._static: dict[str, tuple[str, np.ndarray]] = {}
        self._dynamic: dict[str, tuple[str, PoseSeries]] = {}

    @classmethod
    def read(cls, bag: Bag) -> Transforms:
        """From all TF topics; one that ends in _static holds at all times. Raises UnusableMessage."""
        made = cls()
        topics = [one.name for one in bag.topics.values() if one.type == TF]
        for message in bag.readable(topics) if topics else ():
            for one in decode(message).transforms:
                try:
                    made.add(one, message.topic.endswith("_static"))
                except ValueError as error:
                    made.faults[f"{message.topic}: {error}"] += 1
        return made

    def add(self, transform: Any, static: bool) -> None:
        """Take a geometry_msgs/TransformStamped. Raises ValueError for one that cannot be used."""
        parent, child = transform.header.frame_id.lstrip("/"), transform.child_frame_id.lstrip("/")
        try:
            pose = decode_pose(transform.transform.translation, transform.transform.rotation)
        except ValueError as error:
            raise ValueError(f"{child!r} in {parent!r} is left out: {error}") from error
        new = child not in self._static and child not in self._dynamic
        if self._keep_ns is not None and new and len(self._static) + len(self._dynamic) >= MOST_FRAMES:
            raise ValueError(f"{child!r} is left out: wanted at most {MOST_FRAMES} frames, found more")
        if static:
            self._static[child] = parent, pose
            return
        if child not in self._dynamic or self._dynamic[child][0] != parent:
            self._dynamic[child] = parent, PoseSeries()
        self._dynamic[child][1].add(nanoseconds(transform.header.stamp), pose, self._keep_ns)

    def forget_moving(self) -> None:
        """Forget all frames that move; those of /tf_static hold at all times."""
        self._dynamic.clear()

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

    def why_not(self, target: str, source: str, stamp_ns: int) -> str:
        """Say what is missing where ``lookup`` finds nothing."""
        target, source = target.lstrip("/"), source.lstrip("/")
        known = {*self.children, *(parent for parent, _ in (*self._static.values(), *self._dynamic.values()))}
        missing = [repr(frame) for frame in (target, source) if frame not in known]
        if missing:
            names = ", ".join(sorted(known)[:NAMED]) or "none"
            return f"no frame {' and no frame '.join(missing)} (frames: {names})"
        tops = [[frame for frame, _ in self._upwards(end, stamp_ns)][-1] for end in (source, target)]
        for top in tops:
            if top in self._dynamic:
                parent, series = self._dynamic[top]
                return f"{top!r} in {parent!r}: {series.in_words(stamp_ns)}"
        return f"two trees: {source!r} is below {tops[0]!r}, {target!r} below {tops[1]!r}"

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
