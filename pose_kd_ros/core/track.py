# SPDX-License-Identifier: Apache-2.0
"""Which object of this frame is which of the last: ids, states and predictions.

Time is what the caller's stamps say, in seconds; nothing here reads a clock, so a recording gives the same
tracks each time it is played.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from .object_model import ObjectModel, canonical
from .pose import between, make_pose
from .refine import with_origin_moved

GATE = 16.3  # squared Mahalanobis distance that 99.9 % of three-dimensional errors stay below
SLACK = 0.1  # diameters: errors outside the covariance, such as one that all votes share
SPEED = 2.0  # diameters per second, by which an object may be off its predicted place
TURN = 2.0  # radians per second, by which it may rotate from its predicted rotation
MEMORY = 0.2  # seconds: an unseen object is expected to slow down in this time
LONGEST = 1.0  # seconds: in a longer gap the gate does not become wider
GATED = 1e6
MEASURED = ("new", "tracked")  # states of tracks that were seen in the frame, which the node publishes
ARRAYS = ("pose", "covariance", "velocity")  # of a Track


class Detection(Protocol):
    """What is needed of an estimate; covariance by the convention of refine.py, score in [0, 1]."""

    object_id: int
    pose: np.ndarray
    covariance: np.ndarray
    score: float


@dataclass(frozen=True)
class Track:
    """One physical object through time.

    id: counts up over all classes and is not used again until a reset. state: "new" (seen for the first
    time), "tracked" (seen again), "predicted" (not seen in this frame), "lost" (given up; said once).
    pose: ``T_camera_object`` (4, 4) with its covariance (6, 6), in this frame, measured or predicted; a
    symmetric object keeps the representative it began with. score, stamp: of the last detection. age: seconds
    since the first. hits: detections so far. velocity: (3,) m/s of the origin in the camera frame.
    measured: the detection of this frame that ``pose`` was measured by, None where it is predicted.
    """

    id: int
    object_id: int
    state: str
    pose: np.ndarray
    covariance: np.ndarray
    score: float
    stamp: float
    age: float
    hits: int
    velocity: np.ndarray
    measured: Detection | None = None


class Tracker:
    """Holds the tracks. ``update`` it with every frame, also with one in which nothing was found.

    objects: the models by id. ttl: seconds that an object may go unseen and still keep its id; 0 gives it up
    in the first frame that does not show it. smoothing: in [0, 1), how much of a measured pose is taken from
    the prediction instead; 0 leaves poses as measured.
    """

    def __init__(self, objects: Mapping[int, ObjectModel], ttl: float = 0.5, smoothing: float = 0.0):
        if not (ttl >= 0 and 0 <= smoothing < 1):
            found = f"{ttl} and {smoothing}"
            raise ValueError(f"tracker: wanted ttl >= 0 and smoothing in [0, 1), found {found}")
        self.objects, self.ttl, self.smoothing = objects, ttl, smoothing
        self.reset()

    def reset(self) -> None:
        """Forget all tracks; ids begin at 1 again."""
        self._tracks: list[Track] = []
        self._stamp, self._next_id = -np.inf, 1

    def state(self) -> dict:
        """All that later frames depend on, in numbers and lists: JSON keeps every bit of them."""
        tracks = [
            {**vars(track), "measured": None, **{name: getattr(track, name).tolist() for name in ARRAYS}}
            for track in self._tracks
        ]
        return {"tracks": tracks, "stamp": self._stamp, "next_id": self._next_id}

    def restore(self, state: dict) -> None:
        """Go on from what ``state`` returned."""
        self._tracks = [
            Track(**{**track, **{name: np.array(track[name]) for name in ARRAYS}})
            for track in state["tracks"]
        ]
        self._stamp, self._next_id = state["stamp"], state["next_id"]

    def predict(self, stamp: float) -> list[Track]:
        """Where the tracks are expected at ``stamp``; none if it lies before the last update."""
        return [self._moved(track, stamp) for track in self._tracks] if stamp >= self._stamp else []

    def update(self, stamp: float, detections: Iterable[Detection]) -> list[Track]:
        """Take a frame's detections; returns all tracks, by id, those lost just now included.

        A stamp before the last one (a recording that loops) forgets everything first.
        """
        if not np.isfinite(stamp):
            raise ValueError(f"tracker: stamp {stamp} is not a time")
        if stamp < self._stamp:
            self.reset()
        expected, detections = self.predict(stamp), list(detections)
        pairs = self._pairs(expected, detections)
        seen, used = {track for track, _ in pairs}, {detection for _, detection in pairs}
        tracks = [self._measured(expected[i], self._tracks[i], detections[j], stamp) for i, j in pairs]
        tracks += [self._unseen(track, stamp) for i, track in enumerate(expected) if i not in seen]
        tracks += [self._begun(detection, stamp) for j, detection in enumerate(detections) if j not in used]
        tracks.sort(key=lambda track: track.id)
        self._tracks, self._stamp = [track for track in tracks if track.state != "lost"], stamp
        return tracks

    def _moved(self, track: Track, stamp: float) -> Track:
        """A track carried from the last update's stamp to ``stamp``."""
        gap = min(stamp - self._stamp, LONGEST)
        unseen = self._stamp - track.stamp  # the velocity has faded for so long already
        way = MEMORY * (np.exp(-unseen / MEMORY) - np.exp(-(unseen + gap) / MEMORY))
        grown = np.repeat([SPEED * self.objects[track.object_id].diameter, TURN], 3) ** 2 * (
            min(unseen + gap, LONGEST) ** 2 - min(unseen, LONGEST) ** 2  # the same in one step or in ten
        )
        pose = make_pose(track.pose[:3, :3], track.pose[:3, 3] + track.velocity * way)
        return replace(
            track,
            state="predicted",
            pose=pose,
            covariance=track.covariance + np.diag(grown),
            age=track.age + stamp - self._stamp,
            measured=None,
        )

    def _pairs(self, expected: list[Track], detections: list[Detection]) -> list[tuple[int, int]]:
        """Indices of tracks and detections that belong together, at the least total distance."""
        cost = np.full((len(expected), len(detections)), GATED)
        for i, track in enumerate(expected):
            for j, detection in enumerate(detections):
                if track.object_id == detection.object_id:
                    cost[i, j] = min(GATED, self._distance(track, detection))
        return [(i, j) for i, j in _assigned(cost) if cost[i, j] < GATE]

    def _distance(self, track: Track, detection: Detection) -> float:
        """Squared Mahalanobis distance of the places; rotations may be wrong by a flip and have no say."""
        model = self.objects[track.object_id]
        pose, covariance = _like(detection, model, track.pose)
        gap = pose[:3, 3] - track.pose[:3, 3]
        slack = np.eye(3) * (SLACK * model.diameter) ** 2
        return float(gap @ np.linalg.solve(track.covariance[:3, :3] + covariance[:3, :3] + slack, gap))

    def _measured(self, expected: Track, before: Track, detection: Detection, stamp: float) -> Track:
        measured, covariance = _like(detection, self.objects[expected.object_id], expected.pose)
        pose = between(measured, expected.pose, self.smoothing) if self.smoothing else measured
        elapsed = stamp - before.stamp
        velocity = before.velocity * np.exp(-(self._stamp - before.stamp) / MEMORY)
        if elapsed > 0:  # half of what the velocity missed
            velocity = velocity + (measured[:3, 3] - expected.pose[:3, 3]) / elapsed / 2
        return replace(
            expected,
            state="tracked",
            pose=pose,
            covariance=covariance,
            stamp=stamp,
            score=detection.score,
            hits=expected.hits + 1,
            velocity=velocity,
            measured=detection,
        )

    def _unseen(self, track: Track, stamp: float) -> Track:
        return replace(track, state="lost") if stamp - track.stamp > self.ttl else track

    def _begun(self, detection: Detection, stamp: float) -> Track:
        pose, covariance = _like(detection, self.objects[detection.object_id], None)
        self._next_id += 1
        return Track(
            self._next_id - 1,
            detection.object_id,
            "new",
            pose,
            covariance,
            detection.score,
            stamp,
            age=0.0,
            hits=1,
            velocity=np.zeros(3),
            measured=detection,
        )


def _assigned(cost: np.ndarray) -> list[tuple[int, int]]:
    """Rows and columns (i, j) of the least total cost, each used once, as many as can be."""
    if 0 in cost.shape:
        return []
    if 1 in cost.shape:
        return [tuple(map(int, np.unravel_index(cost.argmin(), cost.shape)))]
    from scipy.optimize import linear_sum_assignment  # half a second: only where it is needed

    return list(zip(*linear_sum_assignment(cost)))


def _like(detection: Detection, model: ObjectModel, previous) -> tuple[np.ndarray, np.ndarray]:
    """The detection's pose and covariance as the symmetric representative nearest to ``previous``."""
    pose = canonical(detection.pose, model, previous)
    return pose, with_origin_moved(detection.covariance, pose[:3, 3] - detection.pose[:3, 3])
