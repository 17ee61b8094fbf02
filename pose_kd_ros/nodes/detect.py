# SPDX-License-Identifier: Apache-2.0
"""Poses on demand: the tracks of some frames, averaged so that one bad frame does not count."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from std_msgs.msg import Header

from ..core.object_model import ObjectModel
from ..core.pose import make_pose, project_to_so3, rotation_angle
from ..core.track import MEASURED

SEEN_IN = 0.5  # share of the frames in which an object must be measured
FAR = 3.0  # times the median deviation from the median pose, or the covariance's; farther poses are left out
CORRELATION = 0.76  # of the errors of two frames in a row, on the demo's recording


@dataclass(frozen=True)
class Averaged:
    """One object over some frames, with the fields of a track that messages need. frames: it was used in."""

    object_id: int
    id: int
    pose: np.ndarray
    covariance: np.ndarray
    score: float
    frames: int


class Collection:
    """Takes the tracks of ``wanted`` frames; the worker adds, the node asks for the outcome.

    classes: names of the objects to keep, all if empty. Gives up ``timeout_s`` seconds after it was made.
    broken_off: set by the node when no more frames will come.
    """

    def __init__(
        self, wanted: int, timeout_s: float, classes: Sequence[str], models: Mapping[int, ObjectModel]
    ):
        self.wanted, self._models = wanted, models
        self._ids = {key for key, model in models.items() if not classes or model.name in classes}
        self._deadline = time.monotonic() + timeout_s
        self._lock = threading.Lock()
        self._tracks: dict[tuple[int, int], list] = defaultdict(list)
        self.frames, self.header = 0, Header()
        self.broken_off = False

    def add(self, tracks: Sequence, header: Header) -> None:
        """Take a frame's tracks."""
        with self._lock:
            if self.frames < self.wanted:
                self.frames, self.header = self.frames + 1, header
                for track in tracks:
                    if track.state in MEASURED and track.object_id in self._ids:
                        self._tracks[track.object_id, track.id].append(track)

    def restart(self) -> None:
        """Begin again: ids were given again, to other objects."""
        with self._lock:
            if self.frames < self.wanted:
                self._tracks.clear()
                self.frames = 0

    @property
    def over(self) -> bool:
        """Whether all frames have come, no more will, or the time is up."""
        return self.frames >= self.wanted or self.broken_off or time.monotonic() > self._deadline

    def outcome(self) -> list[Averaged]:
        """Return the objects that were measured in enough of the frames, the surest first."""
        with self._lock:
            least = max(1, SEEN_IN * self.frames)
            found = [averaged(tracks) for tracks in self._tracks.values() if len(tracks) >= least]
        return sorted(found, key=lambda one: -one.score)

    def in_words(self, found: Sequence[Averaged]) -> str:
        """Say what was found, or how many frames came."""
        if self.frames < self.wanted:
            end = "before the node was stopped or got another bundle" if self.broken_off else "in time"
            return f"wanted {self.wanted} frames, found {self.frames} {end}"
        objects = [
            f"{self._models[one.object_id].name} (id {one.id}) at ({_three(one.pose[:3, 3])}) m, "
            f"in {one.frames} frames, score {one.score:.2f}"
            for one in found
        ]
        where = f" in {self.header.frame_id!r}" if found else ""
        return f"{len(found)} objects in {self.frames} frames{where}: {'; '.join(objects) or 'none'}"


def averaged(tracks: Sequence) -> Averaged:
    """Return the mean of an object's poses without those that lie far from the median one.

    The errors of frames in a row are alike, so n of them are worth n (1 - c) / (1 + c) independent ones, and
    never less than one: the covariance falls with n beyond n = 7 only.
    """
    places = np.array([track.pose[:3, 3] for track in tracks])
    turns = np.array([track.pose[:3, :3] for track in tracks])
    middle = turns[int(np.array([rotation_angle(turns, turn).sum() for turn in turns]).argmin())]
    off = np.stack([np.linalg.norm(places - np.median(places, 0), axis=1), rotation_angle(turns, middle)])
    promised = np.mean([track.covariance for track in tracks], axis=0).diagonal().reshape(2, 3)
    usual = np.maximum(np.median(off, 1), np.sqrt(promised.sum(1)))
    near = (off <= FAR * usual[:, None]).all(0)
    kept = np.flatnonzero(near) if near.any() else np.arange(len(tracks))
    worth = max(1.0, len(kept) * (1 - CORRELATION) / (1 + CORRELATION))
    pose = make_pose(project_to_so3(turns[kept].mean(0)), places[kept].mean(0))
    covariance = np.mean([tracks[k].covariance for k in kept.tolist()], axis=0) / worth
    score = float(np.mean([track.score for track in tracks]))
    return Averaged(tracks[0].object_id, tracks[0].id, pose, covariance, score, len(kept))


def _three(values: np.ndarray) -> str:
    return ", ".join(f"{value:.3f}" for value in values)
