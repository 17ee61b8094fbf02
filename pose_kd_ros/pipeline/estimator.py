# SPDX-License-Identifier: Apache-2.0
"""Image to object poses: the one path that the node, the evaluation and training's own evaluation share."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np

from ..bundle.store import Bundle
from ..core.camera import Camera
from ..core.object_model import ObjectModel
from .network import Network
from .refine import Refiner
from .region import Region
from .solve import Estimates, ObjectPose, Stopwatch, check_size, suppress

KEEP_FACTOR = 0.4  # .22 of .54: on a real recording of 218 frames 2 tracks are lost for a frame, of 49
ANSWERS = 0.2  # overlap of a pose's box with the region that it is an answer to
Made = TypeVar("Made", bound="CropEstimator")


class Estimator(Protocol):
    """A bundle, made to run. Holds no state between images; tracks belong to its caller.

    objects: by id. cell_score, pose_score: thresholds, which may be set between two images, as may
    keep_factor: a pose where a track looks for its object needs this share of ``pose_score`` alone. refiner:
    see ``refine.make_refiner``.
    """

    bundle: Bundle
    objects: dict[int, ObjectModel]
    cell_score: float
    pose_score: float
    keep_factor: float
    refiner: Refiner | None

    def estimate(
        self,
        image: np.ndarray,
        camera: Camera,
        regions: Sequence[Region] = (),
        search: bool = True,
        recover: bool = False,
    ) -> Estimates:
        """Return the poses in an RGB image (H, W, 3) uint8, seen by ``camera``.

        regions: where objects are expected. search: look for others too, in the whole frame or where a
        locator says. recover: do so if no region shows a pose worth keeping. Raises ValueError where
        image and camera disagree in size.
        """
        ...

    def candidates(self, image: np.ndarray, camera: Camera, known: Sequence[np.ndarray] = ()) -> list[Region]:
        """Return where objects may be, likeliest first, but at the boxes (4,) that are ``known``: the first
        half of a search, without a look at each place."""
        ...

    def scaled(self, factors: Mapping[int, float]) -> Estimator:
        """Return the same estimator for objects that are ``factors[id]`` times as large as the bundle's."""
        ...


class CropEstimator(ABC):
    """What the families share: a look at each region, a search, and the best pose of each object.

    cell_score, pose_score: override the bundle's thresholds. refiner: refines the poses that are kept; None,
    as at first, leaves them as they are.
    """

    def __init__(self, bundle: Bundle, network: Network, cell_score: float | None, pose_score: float | None):
        decode = bundle.manifest.decode
        self.bundle, self.network, self.spec = bundle, network, bundle.manifest.input
        self.order, self.objects = bundle.objects, {model.id: model for model in bundle.objects}
        self.cell_score = decode.cell_score if cell_score is None else cell_score
        self.pose_score = decode.pose_score if pose_score is None else pose_score
        self.keep_factor = KEEP_FACTOR
        self.refiner: Refiner | None = None

    def scaled(self: Made, factors: Mapping[int, float]) -> Made:
        """As ``Estimator.scaled``."""
        other = copy.copy(self)
        other.order = tuple(model.scaled(factors.get(model.id, 1.0)) for model in self.order)
        other.objects = {model.id: model for model in other.order}
        other.refiner = self.refiner and self.refiner.scaled(factors)
        return other

    def estimate(
        self,
        image: np.ndarray,
        camera: Camera,
        regions: Sequence[Region] = (),
        search: bool = True,
        recover: bool = False,
    ) -> Estimates:
        """As ``Estimator.estimate``."""
        check_size(image, camera)
        watch = Stopwatch()
        found = [pose for region in regions for pose in self._look_at(image, camera, region, watch)]
        answered = self._kept(found)
        if search or (recover and regions and not answered):
            found += self._search(image, camera, answered, watch)
        poses = self._kept(suppress(found))
        if self.refiner is not None:
            watch.restart()
            poses = self.refiner(image, camera, poses)
            watch.lap("refine")
        return Estimates(poses, watch.stages_ms)

    def candidates(self, image: np.ndarray, camera: Camera, known: Sequence[np.ndarray] = ()) -> list[Region]:
        """As ``Estimator.candidates``."""
        check_size(image, camera)
        return self._candidates(image, camera, known, Stopwatch())

    def _kept(self, poses: list[ObjectPose]) -> list[ObjectPose]:
        return [pose for pose in poses if pose.score >= self.least_score(pose)]

    def least_score(self, of: Region | ObjectPose) -> float:
        """The score that a pose needs: less where a track expects it, so that tracks do not come and go."""
        return self.pose_score * (1.0 if of.track_id is None else self.keep_factor)

    @abstractmethod
    def _look_at(
        self, image: np.ndarray, camera: Camera, region: Region, watch: Stopwatch
    ) -> list[ObjectPose]:
        """Return the best pose in a zoomed crop about a region; none if it shows nothing."""

    @abstractmethod
    def _candidates(
        self, image: np.ndarray, camera: Camera, known: Sequence[np.ndarray], watch: Stopwatch
    ) -> list[Region]:
        """Return where objects may be, but at the boxes that are ``known``."""

    def _search(
        self, image: np.ndarray, camera: Camera, known: list[ObjectPose], watch: Stopwatch
    ) -> list[ObjectPose]:
        """Return the poses of objects that are not ``known`` yet."""
        regions = self._candidates(image, camera, [pose.box for pose in known], watch)
        return [pose for region in regions for pose in self._look_at(image, camera, region, watch)]
