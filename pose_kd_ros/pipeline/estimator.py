# SPDX-License-Identifier: Apache-2.0
"""Image to object poses: the one path that the node, the evaluation and training's own evaluation share."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

import numpy as np

from ..bundle.manifest import EdgeSpec
from ..bundle.store import Bundle
from ..core.camera import Camera
from ..core.object_model import ObjectModel
from .network import Network
from .refine import EdgeRefiner, Refiner
from .region import Region
from .score import score_of
from .solve import Estimates, ObjectPose, Stopwatch, check_size, suppress

KEEP_FACTOR = 0.4  # .22 of .54: on a real recording of 218 frames 2 tracks are lost for a frame, of 49
ANSWERS = 0.2  # overlap of a pose's box with the region that it is an answer to
Made = TypeVar("Made", bound="CropEstimator")


class Estimator(Protocol):
    """A bundle, made to run. Holds no state between images; tracks belong to its caller.

    objects: by id. cell_score, pose_score: thresholds, which may be set between two images, as may
    keep_factor: a pose where a track looks for its object needs this share of ``pose_score`` alone. refiner:
    see ``refine.make_refiner``. depth_refiner: for the follower, which has the depth image.
    """

    bundle: Bundle
    objects: dict[int, ObjectModel]
    cell_score: float
    keep_factor: float
    refiner: Refiner | None
    depth_refiner: Refiner | None

    @property
    def pose_score(self) -> float:
        """The score that a pose needs."""
        ...

    @pose_score.setter
    def pose_score(self, value: float | None) -> None:
        """None: the bundle's."""
        ...

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

    cell_score, pose_score: override the bundle's thresholds. refiner: refines the poses that may be kept;
    None, as at first, leaves them as they are. weights: of the score's terms, before refinement.
    """

    def __init__(self, bundle: Bundle, network: Network, cell_score: float | None, pose_score: float | None):
        decode = bundle.manifest.decode
        self.bundle, self.network, self.spec = bundle, network, bundle.manifest.input
        self.order, self.objects = bundle.objects, {model.id: model for model in bundle.objects}
        self.cell_score = decode.cell_score if cell_score is None else cell_score
        self._pose_score = pose_score
        self.keep_factor = KEEP_FACTOR
        self.refiner: Refiner | None = None
        self.depth_refiner: Refiner | None = None

    @property
    def edges(self) -> EdgeSpec | None:
        """What the bundle says of poses refined on edges, if that is done."""
        return self.bundle.manifest.decode.edges if isinstance(self.refiner, EdgeRefiner) else None

    @property
    def weights(self) -> list[float]:
        """The weights of the score's terms."""
        return (self.edges or self.bundle.manifest.decode).calibration

    @property
    def pose_score(self) -> float:
        """The score that a pose needs: the bundle's, unless another was set; None sets the bundle's again."""
        if self._pose_score is not None:
            return self._pose_score
        return (self.edges or self.bundle.manifest.decode).pose_score

    @pose_score.setter
    def pose_score(self, value: float | None) -> None:
        self._pose_score = value

    def scaled(self: Made, factors: Mapping[int, float]) -> Made:
        """As ``Estimator.scaled``."""
        other = copy.copy(self)
        other.order = tuple(model.scaled(factors.get(model.id, 1.0)) for model in self.order)
        other.objects = {model.id: model for model in other.order}
        other.refiner = self.refiner and self.refiner.scaled(factors)
        other.depth_refiner = self.depth_refiner and self.depth_refiner.scaled(factors)
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
        found = self._refined(image, camera, found, watch)
        if search or (recover and regions and not found):
            more = suppress(self._search(image, camera, found, watch))
            found += self._refined(image, camera, more, watch)
        return Estimates(suppress(found), watch.stages_ms)

    def _refined(
        self, image: np.ndarray, camera: Camera, poses: list[ObjectPose], watch: Stopwatch
    ) -> list[ObjectPose]:
        """Return those poses that are kept, refined and with the score that they have then."""
        poses = self._kept(poses)
        if self.refiner is None or not poses:
            return poses
        watch.restart()
        poses = self.refiner(image, camera, poses)
        if self.edges is not None:
            plain, weights = self.bundle.manifest.decode.calibration, self.weights
            poses = [replace(p, score=score_of(p.evidence, plain, weights)) for p in poses]
        watch.lap("refine")
        return self._kept(poses)

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
