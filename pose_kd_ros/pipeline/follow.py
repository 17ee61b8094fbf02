# SPDX-License-Identifier: Apache-2.0
"""Frames to tracks: where to look in each frame, and what was found there."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..bundle.store import Bundle
from ..core.camera import Camera
from ..core.track import MEASURED, Track, Tracker
from .estimator import Estimator
from .region import Region, overlap, projected_box
from .solve import ObjectPose, suppress

KNOWN = 0.3  # a given region that overlaps a track's by more adds nothing
# Gives a frame's depth image (H, W), metres, 0 where nothing was measured, or None; it may wait for it.
DepthSource = Callable[[], "np.ndarray | None"]
JUMP_S = 0.2  # stamps that go back by more are a bag that loops; by less, frames out of order


class Outcome(Protocol):
    """What a follower says of a frame, with the milliseconds of each stage."""

    @property
    def stages_ms(self) -> dict[str, float]: ...


@dataclass(frozen=True)
class Followed:
    """One frame's outcome. tracks: also those lost just now. stages_ms: the estimator's, and "track"."""

    tracks: list[Track]
    stages_ms: dict[str, float]


def order_of(stamp: float, last: float) -> str:
    """Where a frame stands against the last: "next", "late" (unusable) or "jumped" back (reset first)."""
    if stamp > last:
        return "next"
    return "jumped" if stamp < last - JUMP_S else "late"


class Bundled(Protocol):
    """What runs a bundle. cell_score: a threshold that may be set between two images."""

    bundle: Bundle
    cell_score: float


class Follower(Protocol):
    """Frames to what is in them, in the order of their stamps.

    wants_camera: whether ``process`` needs a camera. classes: ids by the class names that regions may have.
    max_instances: so many objects are looked at in one frame.
    """

    wants_camera: bool
    max_instances: int

    @property
    def estimator(self) -> Bundled: ...

    @property
    def classes(self) -> Mapping[str, int]: ...

    def reset(self) -> None:
        """Forget all that was seen before; any stamp may come next."""
        ...

    def order(self, stamp: float) -> str:
        """Where a frame stands against the last, see ``order_of``."""
        ...

    def process(
        self,
        stamp: float,
        image: np.ndarray,
        camera: Any,
        regions: Sequence[Region] = (),
        depth: DepthSource | None = None,
    ) -> Outcome:
        """Return what is in an RGB image (H, W, 3) uint8, taken at ``stamp`` seconds.

        camera: a Camera where ``wants_camera`` says so. regions: where to look. depth: asked only where there
        is something to refine.
        """
        ...

    def look_around(self) -> None:
        """Look for new objects in the frame that was processed last, if it is time to. To be called after
        each frame, when its outcome was published: it may take long."""
        ...


class ObjectFollower:
    """Estimator and tracker in a loop: each track says where to look for its object in the next frame.

    While nothing is measured, each frame is searched. While something is, its frames do not wait: a search
    comes after them, in ``look_around``, when a track is not seen where it should be or ``search_period``
    seconds have passed, and not while ``expected_count`` objects are measured (0: unknown). What it finds is
    looked at in the following frames, one place in each. search: False leaves new objects to the given
    regions. max_instances: so many objects are looked at, and as many poses taken, in one frame.
    """

    wants_camera = True

    def __init__(
        self,
        estimator: Estimator,
        tracker: Tracker,
        search_period: float = 1.0,
        max_instances: int = 10,
        search: bool = True,
        expected_count: int = 0,
    ):
        self.estimator, self.tracker = estimator, tracker
        self.search_period, self.max_instances, self.search = search_period, max_instances, search
        self.expected_count = expected_count
        self.reset()

    @property
    def classes(self) -> dict[str, int]:
        """Object ids by class name, as given regions may name them."""
        return {model.name: model.id for model in self.estimator.objects.values()}

    def reset(self) -> None:
        """Forget all tracks."""
        self.tracker.reset()
        self._stamp = self._searched = -np.inf
        self._measured = False
        self._candidates: list[Region] = []
        self._frame: tuple[np.ndarray, Camera, list[np.ndarray]] | None = None  # that is to be searched

    def state(self) -> dict:
        """All that later frames depend on, see ``Tracker.state``."""
        own = {"stamp": self._stamp, "searched": self._searched, "measured": self._measured}
        candidates = [[region.box.tolist(), region.object_id] for region in self._candidates]
        return {"tracker": self.tracker.state(), **own, "candidates": candidates}

    def restore(self, state: dict) -> None:
        """Go on from what ``state`` returned, as if there had been no break."""
        self.tracker.restore(state["tracker"])
        self._stamp, self._searched = state["stamp"], state["searched"]
        self._measured, self._frame = state["measured"], None
        self._candidates = [Region(np.array(box), object_id) for box, object_id in state["candidates"]]

    def order(self, stamp: float) -> str:
        """Where a frame stands against the last, see ``order_of``."""
        return order_of(stamp, self._stamp)

    def process(
        self,
        stamp: float,
        image: np.ndarray,
        camera: Camera,
        regions: Sequence[Region] = (),
        depth: DepthSource | None = None,
    ) -> Followed:
        """Return the tracks after an RGB image (H, W, 3) uint8, taken at ``stamp`` seconds.

        regions: where new objects are expected. depth: on which poses are refined before they are tracked, by
        the estimator's ``depth_refiner``. Raises ValueError as ``Estimator.estimate`` does, and
        for a stamp that is not "next".
        """
        if self.order(stamp) != "next":
            raise ValueError(f"follow: stamp {stamp:.6f} s does not follow {self._stamp:.6f} s")
        expected = self._expected(stamp, camera)
        given = [*regions, *self._candidates[:1]]
        fresh = [r for r in given if all(overlap(r.box, e.box) < KNOWN for e in expected)]
        self._candidates = self._candidates[1:]
        search = self.search and not self._measured
        found = self.estimator.estimate(image, camera, expected + fresh, search, recover=self.search)
        poses = [*found.poses, *self._in_the_place_of_tracks(image, camera, given, fresh, found.poses)]
        poses = sorted(poses, key=lambda p: p.track_id is None)[: self.max_instances]
        started = time.perf_counter()
        stages = dict(found.stages_ms)
        if depth is not None:
            poses = self._on_depth(depth, camera, poses)
            stages["depth"] = 1e3 * (time.perf_counter() - started)
            started = time.perf_counter()
        tracks = self.tracker.update(stamp, poses)
        self._stamp, self._searched = stamp, stamp if search else self._searched
        measured = [track for track in tracks if track.state in MEASURED]
        missed = any(track.state == "predicted" for track in tracks)
        self._measured = bool(measured)
        self._frame = None
        if self._measured and not search and self._worth_searching(stamp, len(measured), missed):
            self._frame = image, camera, [pose.box for pose in poses]
        return Followed(tracks, {**stages, "track": 1e3 * (time.perf_counter() - started)})

    def look_around(self) -> None:
        """As ``Follower.look_around``."""
        if self._frame is not None:
            image, camera, known = self._frame
            self._frame, self._searched = None, self._stamp
            self._candidates = self.estimator.candidates(image, camera, known)[: self.max_instances]

    def _on_depth(self, depth: DepthSource, camera: Camera, poses: list[ObjectPose]) -> list[ObjectPose]:
        """Return the poses after refinement on the depth image, if there is one and anything to refine."""
        refiner = self.estimator.depth_refiner
        if refiner is None or all(pose.object_id not in refiner.meshes for pose in poses):
            return poses
        measured = depth()
        return poses if measured is None else refiner(measured, camera, poses)

    def _worth_searching(self, stamp: float, measured: int, missed: bool) -> bool:
        if not self.search or self._candidates or 0 < self.expected_count <= measured:
            return False
        return missed or stamp - self._searched >= self.search_period

    def _in_the_place_of_tracks(
        self,
        image: np.ndarray,
        camera: Camera,
        given: Sequence[Region],
        fresh: Sequence[Region],
        found: Sequence[ObjectPose],
    ) -> list[ObjectPose]:
        """Return what given regions show that a track seemed to know, where its own crop showed nothing."""
        missed = [
            region
            for region in given
            if all(region is not other for other in fresh)
            and all(overlap(region.box, pose.box) < KNOWN for pose in found)
        ]
        looked = self.estimator.estimate(image, camera, missed, search=False).poses if missed else []
        return suppress(looked, found)  # a crop shows more than its region: perhaps what was found already

    def _expected(self, stamp: float, camera: Camera) -> list[Region]:
        regions = []
        for track in self.tracker.predict(stamp)[: self.max_instances]:  # the oldest first
            box = projected_box(track.pose, self.estimator.objects[track.object_id], camera)
            if box is not None:
                regions.append(Region(box, track.object_id, track.id))
        return regions
