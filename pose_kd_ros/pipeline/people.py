# SPDX-License-Identifier: Apache-2.0
"""People: keypoints of the person in each given box, in pixels of the image. No poses, camera or search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..bundle.store import Bundle
from ..core.camera import Camera
from ..core.heatmaps import decode_peaks
from .follow import order_of
from .network import Network
from .preprocess import crop_about, network_input
from .region import Region
from .solve import Stopwatch


@dataclass(frozen=True)
class Person:
    """One box's person. points: (K, 2) raw pixels of the image, NaN where a map shows nothing.

    scores: (K,) in [0, 1], how high each map peaks. box: (4,) the region's; number: which of the
    regions; track_id: the region's.
    """

    points: np.ndarray
    scores: np.ndarray
    box: np.ndarray
    number: int
    track_id: int | None = None

    def __post_init__(self) -> None:
        k = len(self.scores)
        for name, shape in (("points", (k, 2)), ("scores", (k,)), ("box", (4,))):
            if getattr(self, name).shape != shape:
                raise ValueError(f"Person.{name}: wanted {shape}, found {getattr(self, name).shape}")


class PeopleEstimator:
    """A heatmap bundle for people, made to run; no state between frames.

    cell_score: a keypoint is shown above it, instead of the bundle's; estimates hold the others, too.
    flip_test: average with what the network says of the mirrored crop; twice the time.
    """

    def __init__(
        self,
        bundle: Bundle,
        network: Network,
        *,
        cell_score: float | None = None,
        flip_test: bool = False,
    ):
        self.bundle, self.network, self.flip_test = bundle, network, flip_test
        self.cell_score = bundle.manifest.decode.cell_score if cell_score is None else cell_score
        self.spec, self.stride = bundle.manifest.input, bundle.manifest.network.strides[0]
        people = bundle.manifest.people
        assert people is not None, "make_estimator gives it no other bundle"
        self.mirrored = mirrored_order(len(people.keypoints), people.flip)

    def estimate(
        self, image: np.ndarray, regions: Sequence[Region], watch: Stopwatch | None = None
    ) -> list[Person]:
        """Return one person for each region of an RGB image (H, W, 3) uint8; watch: adds the stages."""
        watch = watch or Stopwatch()
        return [self._look_at(image, region, number, watch) for number, region in enumerate(regions)]

    def _look_at(self, image: np.ndarray, region: Region, number: int, watch: Stopwatch) -> Person:
        crop = crop_about(region.box, self.spec)
        pixels = network_input(image, crop, self.spec)
        watch.lap("preprocess")
        maps = self._maps(pixels)
        watch.lap("network")
        peaks = decode_peaks(maps, self.stride)
        watch.lap("decode")
        return Person(crop.to_full(peaks.points), peaks.scores, region.box, number, region.track_id)

    def _maps(self, pixels: np.ndarray) -> np.ndarray:
        """The maps (K, h, w) of a network input (1, 3, H, W); with ``flip_test`` the mean of these and
        of those of the mirrored input, mirrored back.

        Mirroring needs no shift: pixels of maps stand for the middles of their patches of the image, so the
        mirror image of map column j of w is column w - 1 - j. The shift by one pixel of public code bases
        corrects a misalignment that is not here.
        """
        maps = self.network(pixels)["heatmaps"][0, 0]
        if not self.flip_test:
            return maps
        mirrored = self.network(np.ascontiguousarray(pixels[..., ::-1]))["heatmaps"][0, 0]
        return (maps + mirrored[self.mirrored, :, ::-1]) / 2


@dataclass(frozen=True)
class Observed:
    """One frame's outcome. people: one for each region that was looked at. stages_ms: the estimator's."""

    people: list[Person]
    stages_ms: dict[str, float]


class PeopleFollower:
    """Frames to people. It keeps the order of stamps; there are no tracks.

    max_instances: so many boxes are looked at in one frame, the first ones.
    """

    wants_camera = False
    classes: ClassVar = {"person": 0}

    def __init__(self, estimator: PeopleEstimator, max_instances: int = 10):
        self.estimator, self.max_instances = estimator, max_instances
        self.reset()

    def reset(self) -> None:
        """Take any stamp next."""
        self._stamp = -np.inf

    def order(self, stamp: float) -> str:
        """As ``Follower.order``."""
        return order_of(stamp, self._stamp)

    def process(
        self,
        stamp: float,
        image: np.ndarray,
        camera: Camera | None = None,
        regions: Sequence[Region] = (),
        depth: object = None,
    ) -> Observed:
        """Return the people in the regions of an RGB image (H, W, 3) uint8; no camera and no depth are
        needed."""
        watch = Stopwatch()
        people = self.estimator.estimate(image, regions[: self.max_instances], watch)
        self._stamp = stamp
        return Observed(people, watch.stages_ms)

    def look_around(self) -> None:
        """Do nothing: people are looked at where they are said to be."""


def mirrored_order(count: int, flip: Sequence[Sequence[int]]) -> np.ndarray:
    """Indices (count,) that put the keypoints of a mirrored picture in order: each pair changes places."""
    order = np.arange(count)
    for left, right in flip:
        order[left], order[right] = right, left
    return order
