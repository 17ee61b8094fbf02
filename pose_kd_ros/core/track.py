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

from .metrics import error_vector
from .motion import LONGEST, Motion, carried, corrected, standing
from .object_model import ObjectModel, canonical
from .refine import with_origin_moved

# Squared Mahalanobis distances that 99.9 % of errors stay below: of places, and of whole poses.
GATE_OF_PLACE, GATE = 16.3, 22.5
SLACK, SLACK_TURN = 0.05, 0.2  # diameters and radians: errors outside the covariance
MEASURED = ("new", "tracked")  # states of tracks that were seen in the frame, which the node publishes
ARRAYS = ("pose", "covariance")  # of a Track, beside those of its Motion


class Detection(Protocol):
    """What is needed of an estimate; covariance by the convention of refine.py, score in [0, 1]."""

    @property
    def object_id(self) -> int: ...

    @property
    def pose(self) -> np.ndarray: ...

    @property
    def covariance(self) -> np.ndarray: ...

    @property
    def score(self) -> float: ...


@dataclass(frozen=True)
class Track:
    """One physical object through time.

    id: counts up over all classes and is not used again until a reset. state: "new" (seen for the first
    time), "tracked" (seen again), "predicted" (not seen in this frame), "lost" (given up; said once).
    pose: ``T_camera_object`` (4, 4) with its covariance (6, 6), in this frame, measured or predicted; a
    symmetric object keeps the representative it began with. The covariance of a measured one is that of the
    last measurement: consecutive errors are too alike for the mean of n to be much better. score, stamp: of
    the last detection. age: seconds since the first. hits: detections so far, in so many frames.
    confirmed: seen often enough to be believed in (``Tracker``). motion: what the filter knows. measured: the
    detection of this frame that ``pose`` was measured by, None where it is predicted.
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
    frames: int
    confirmed: bool
    motion: Motion
    measured: Detection | None = None


class Tracker:
    """Holds the tracks. ``update`` it with every frame, also with one in which nothing was found.

    objects: the models by id. ttl: seconds that an object may go unseen and still keep its id; 0 gives it up
    in the first frame that does not show it. smooth: state the filter's poses (``motion``); else those that
    were measured. confirm_hits, confirm_frames: a track is confirmed when it was seen so often in so many
    frames, and given up when it cannot be any more.
    """

    def __init__(
        self,
        objects: Mapping[int, ObjectModel],
        ttl: float = 0.5,
        smooth: bool = True,
        confirm_hits: int = 2,
        confirm_frames: int = 3,
    ):
        if not (ttl >= 0 and 1 <= confirm_hits <= confirm_frames):
            found = f"{ttl}, {confirm_hits} and {confirm_frames}"
            raise ValueError(
                f"tracker: wanted ttl >= 0 and 1 <= confirm_hits <= confirm_frames, found {found}"
            )
        self.objects, self.ttl, self.smooth = objects, ttl, smooth
        self.confirm_hits, self.confirm_frames = confirm_hits, confirm_frames
        self.reset()

    def reset(self) -> None:
        """Forget all tracks; ids begin at 1 again."""
        self._tracks: list[Track] = []
        self._stamp, self._next_id = -np.inf, 1

    def state(self) -> dict:
        """All that later frames depend on, in numbers and lists: JSON keeps every bit of them."""
        tracks = [
            {
                **vars(track),
                "measured": None,
                **{name: getattr(track, name).tolist() for name in ARRAYS},
                "motion": {name: value.tolist() for name, value in vars(track.motion).items()},
            }
            for track in self._tracks
        ]
        return {"tracks": tracks, "stamp": self._stamp, "next_id": self._next_id}

    def restore(self, state: dict) -> None:
        """Go on from what ``state`` returned."""
        self._tracks = [
            Track(
                **{
                    **track,
                    **{name: np.array(track[name]) for name in ARRAYS},
                    "motion": Motion(**{name: np.array(value) for name, value in track["motion"].items()}),
                }
            )
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
        tracks = [self._measured(expected[i], detections[j], stamp) for i, j in pairs]
        unseen = [track for i, track in enumerate(expected) if i not in seen]
        for detection in (d for j, d in enumerate(detections) if j not in used):
            rivals = [track for track in unseen if self._at_its_place(track, detection)]
            if any(track.confirmed for track in rivals):
                continue  # the same object, turned over: wrong, unless it stays so and the track is lost
            unseen = [track for track in unseen if all(track is not rival for rival in rivals)]
            tracks.append(self._begun(detection, stamp))
        tracks += [self._unseen(track, stamp) for track in unseen]
        tracks.sort(key=lambda track: track.id)
        self._tracks, self._stamp = [track for track in tracks if track.state != "lost"], stamp
        return [track for track in tracks if track.confirmed or track.state != "lost"]

    def _moved(self, track: Track, stamp: float) -> Track:
        """A track carried from the last update's stamp to ``stamp``."""
        unseen = self._stamp - track.stamp
        gap = min(unseen + stamp - self._stamp, LONGEST) - min(unseen, LONGEST)
        motion = carried(track.motion, gap, self.objects[track.object_id].diameter)
        return replace(
            track,
            state="predicted",
            pose=motion.pose,
            covariance=track.covariance + motion.covariance[:6, :6] - track.motion.covariance[:6, :6],
            age=track.age + stamp - self._stamp,
            motion=motion,
            measured=None,
        )

    def _pairs(self, expected: list[Track], detections: list[Detection]) -> list[tuple[int, int]]:
        """Indices of tracks and detections that belong together, at the least total distance."""
        cost = np.full(
            (len(expected), len(detections)), GATE
        )  # no more: pairs beyond it must not steer others
        for i, track in enumerate(expected):
            for j, detection in enumerate(detections):
                if track.object_id == detection.object_id:
                    cost[i, j] = min(GATE, self._distance(track, detection, 6))
        return [(i, j) for i, j in _assigned(cost) if cost[i, j] < GATE]

    def _at_its_place(self, track: Track, detection: Detection) -> bool:
        """Whether a detection could be this track's object, but for its rotation."""
        same = track.object_id == detection.object_id
        return same and self._distance(track, detection, 3) < GATE_OF_PLACE

    def _distance(self, track: Track, detection: Detection, count: int) -> float:
        """Squared Mahalanobis distance: of the whole poses (``count`` 6) or of the places (3)."""
        model = self.objects[track.object_id]
        pose, covariance = _like(detection, model, track.pose)
        gap = error_vector(track.pose, pose)[:count]
        slack = np.repeat([SLACK * model.diameter, SLACK_TURN], 3) ** 2
        spread = track.motion.covariance[:6, :6] + covariance + np.diag(slack)
        return float(gap @ np.linalg.solve(spread[:count, :count], gap))

    def _measured(self, expected: Track, detection: Detection, stamp: float) -> Track:
        pose, covariance = _like(detection, self.objects[expected.object_id], expected.pose)
        motion = corrected(expected.motion, pose, covariance)
        return replace(
            expected,
            state="tracked",
            pose=motion.pose if self.smooth else pose,
            covariance=covariance,
            stamp=stamp,
            score=detection.score,
            hits=expected.hits + 1,
            frames=expected.frames + 1,
            confirmed=expected.confirmed or expected.hits + 1 >= self.confirm_hits,
            motion=motion,
            measured=detection,
        )

    def _unseen(self, track: Track, stamp: float) -> Track:
        frames = track.frames + 1
        hopeless = not track.confirmed and frames - track.hits > self.confirm_frames - self.confirm_hits
        lost = hopeless or stamp - track.stamp > self.ttl
        return replace(track, frames=frames, state="lost" if lost else track.state)

    def _begun(self, detection: Detection, stamp: float) -> Track:
        model = self.objects[detection.object_id]
        pose, covariance = _like(detection, model, None)
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
            frames=1,
            confirmed=self.confirm_hits == 1,
            motion=standing(pose, covariance, model.diameter),
            measured=detection,
        )


def _assigned(cost: np.ndarray) -> list[tuple[int, int]]:
    """Rows and columns (i, j) of the least total cost, each used once, as many as can be."""
    if 0 in cost.shape:
        return []
    if 1 in cost.shape:
        i, j = np.unravel_index(cost.argmin(), cost.shape)
        return [(int(i), int(j))]
    from scipy.optimize import linear_sum_assignment  # half a second: only where it is needed

    return list(zip(*linear_sum_assignment(cost)))


def _like(
    detection: Detection, model: ObjectModel, previous: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """The detection's pose and covariance as the symmetric representative nearest to ``previous``."""
    pose = canonical(detection.pose, model, previous)
    return pose, with_origin_moved(detection.covariance, pose[:3, 3] - detection.pose[:3, 3])
