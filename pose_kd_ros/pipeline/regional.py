# SPDX-License-Identifier: Apache-2.0
"""The families that measure an object in a crop. Dense and surface: pixels say which point of the surface
they see. Heatmap: a map for each keypoint peaks where it is.

Where to look comes from a keypoint bundle (the locator), from the node's regions topic, or from a track.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol, cast

import numpy as np

from ..bundle.manifest import BundleError
from ..bundle.store import Bundle
from ..core.camera import Camera
from ..core.heatmaps import decode_peaks
from ..core.object_model import ObjectModel
from ..core.predictions import Correspondences
from ..core.surface import BITS, SurfaceCodes, codes_of
from .estimator import ANSWERS, CropEstimator
from .network import Network, ObjectNetworks
from .preprocess import crop_about, in_full_image, network_input
from .region import Places, Region, overlap
from .solve import SAME_OBJECT, ObjectPose, Stopwatch, solve, with_track
from .surface import SurfaceSearch, decode_surface

# Pixels that are sure of fewer bits are left out: they narrow the surface down to a sixteenth at most.
LEAST_BITS = 4
UNSURE = 0.1  # a bit this close to a half says nothing, and ends what the pixel knows
# Correspondences that are solved; more cost time and change the pose by less than its noise.
MOST_PIXELS = 2000
# Looks end when a pose's box overlaps the box that was looked in by SAME_PLACE.
MOST_LOOKS, SAME_PLACE = 3, 0.8
ERROR = {"dense": 0.015, "heatmap": 0.02, "surface": 0.02}  # inlier threshold over the crop's height


class Locator(Protocol):
    """What finds the objects of a frame roughly, so that they can be looked at closely."""

    objects: dict[int, ObjectModel]

    def places(self, image: np.ndarray, camera: Camera) -> Places: ...

    def scaled(self, factors: Mapping[int, float]) -> Locator: ...


class RegionalEstimator(CropEstimator):
    """A dense, heatmap or surface bundle, made to run.

    locator: the estimator of a keypoint bundle that searches for it; without one, only regions are looked
    at. cell_score: the threshold of the mask, or of a keypoint's peak, instead of the bundle's. Raises
    BundleError where the locator knows none of the objects.
    """

    def __init__(
        self,
        bundle: Bundle,
        network: Network,
        locator: Locator | None = None,
        *,
        cell_score: float | None = None,
        pose_score: float | None = None,
    ):
        super().__init__(bundle, network, cell_score, pose_score)
        self.family, self.stride = bundle.manifest.family, bundle.manifest.network.strides[0]
        self.looked_at = {int(object_id) for object_id in bundle.manifest.network.object_files}
        coded = bundle.objects if self.family == "dense" else ()
        self.surfaces = {model.id: bundle.surface(model.id) for model in coded}
        if locator is None and self.family == "surface":
            locator = SurfaceSearch(bundle, network, bundle.objects)
        self.locator = locator
        if locator is not None and not self.objects.keys() & locator.objects.keys():
            ours, theirs = sorted(self.objects), sorted(locator.objects)
            raise BundleError(f"locator: it finds objects {theirs}, bundle {bundle.folder} has {ours}")

    def scaled(self, factors: Mapping[int, float]) -> RegionalEstimator:
        """As ``Estimator.scaled``."""
        other = super().scaled(factors)
        other.locator = self.locator and self.locator.scaled(factors)
        other.surfaces = {i: s.scaled(factors.get(i, 1.0)) for i, s in self.surfaces.items()}
        return other

    def _candidates(
        self, image: np.ndarray, camera: Camera, known: Sequence[np.ndarray], watch: Stopwatch
    ) -> list[Region]:
        """Ask the locator where to look, if there is one."""
        if self.locator is None:
            return []
        located = self.locator.places(image, camera)
        for stage, spent in located.stages_ms.items():
            watch.stages_ms[f"locate_{stage}"] = spent
        watch.restart()
        return [
            region
            for region in located.regions
            if region.object_id in self.objects
            and all(overlap(region.box, box) < SAME_OBJECT for box in known)
        ]

    def _look_at(
        self, image: np.ndarray, camera: Camera, region: Region, watch: Stopwatch
    ) -> list[ObjectPose]:
        """Return the pose in a zoomed crop about the region; where its box lies elsewhere, look there again.

        A box that shows a part of the object, or is far too large, gives a poor pose, but a better box.
        """
        found: list[ObjectPose] = []
        for _ in range(MOST_LOOKS):
            looked = self._look_once(image, camera, region, watch)
            found = looked or found
            if not looked or overlap(looked[0].box, region.box) >= SAME_PLACE:
                break
            region = replace(region, box=looked[0].box)
        return found

    def _look_once(
        self, image: np.ndarray, camera: Camera, region: Region, watch: Stopwatch
    ) -> list[ObjectPose]:
        """Return the pose in a zoomed crop, if its box overlaps the region's."""
        crop = crop_about(region.box, self.spec)
        pixels = network_input(image, crop, self.spec)
        watch.lap("preprocess")
        index, outputs = self._read(pixels, region)
        watch.lap("network")
        if index is None:
            return []
        model, correspondences = self.order[index], self._decode(outputs, index)
        correspondences = in_full_image(correspondences, crop, camera)
        watch.lap("decode")
        threshold = ERROR[self.family] * self.spec.size / crop.scale
        decode = self.bundle.manifest.decode
        least = self.least_score(region)
        pose = solve(correspondences, model, camera, threshold, decode, self.weights, least)
        watch.lap("pnp")
        if pose is None or overlap(pose.box, region.box) <= ANSWERS:
            return []
        return [with_track(pose, region.track_id)]

    def _read(self, pixels: np.ndarray, region: Region) -> tuple[int | None, dict[str, np.ndarray]]:
        """Index of the object that a crop is about, None if it is not ours, and what the network says: that
        of the object alone, where it has one, which is asked first if the region names the object."""
        if region.object_id in self.looked_at:
            return self._class_of(region, {}), self._look(pixels, region.object_id)
        outputs = self.network(pixels)
        index = self._class_of(region, outputs)
        if index is not None and self.order[index].id in self.looked_at:
            outputs = self._look(pixels, self.order[index].id)
        return index, outputs

    def _look(self, pixels: np.ndarray, object_id: int | None) -> dict[str, np.ndarray]:
        """What the network of one of ``looked_at`` says."""
        return cast(ObjectNetworks, self.network)(pixels, object_id)

    def _class_of(self, region: Region, outputs: dict[str, np.ndarray]) -> int | None:
        """Index of the region's object, or of the one that the crop shows most of: by the mask's area, by the
        mean height of its keypoints' peaks. None if it is not ours."""
        ids = [model.id for model in self.order]
        if region.object_id is not None:
            return ids.index(region.object_id) if region.object_id in ids else None
        if self.family in ("dense", "surface"):
            return int(outputs["mask"][0].sum((1, 2)).argmax())
        return int(np.clip(outputs["heatmaps"][0].max((2, 3)), 0, 1).mean(1).argmax())

    def _decode(self, outputs: dict[str, np.ndarray], index: int) -> Correspondences:
        """What the crop shows of the object at ``index``, in pixels of the crop."""
        model = self.order[index]
        if self.family == "dense":
            mask, codes, surface = outputs["mask"][0, index], outputs["codes"][0], self.surfaces[model.id]
            return decode_codes(mask, codes, surface, self.stride, self.cell_score, model.id)
        if self.family == "surface":
            size = self.bundle.manifest.decode.vote_scale.get(str(model.id), 1.0)
            channel = 0 if model.id in self.looked_at else index
            return decode_surface(outputs, channel, model, self.stride, self.cell_score, size)
        maps = outputs["heatmaps"][0, index]
        return decode_maps(maps, model.keypoints, self.stride, self.cell_score, model.id)


def decode_codes(
    mask: np.ndarray, codes: np.ndarray, surface: SurfaceCodes, stride: int, threshold: float, object_id: int
) -> Correspondences:
    """Return what the pixels of one object see, pixels of the crop against points of the object.

    mask (h, w) and codes (BITS, h, w): probabilities at every ``stride``-th pixel of the crop. A pixel's
    point is the centre of what its sure bits leave of the surface; its weight falls with the size of that and
    with the mask. At most MOST_PIXELS, evenly over the mask.
    """
    v, u = np.nonzero(mask > threshold)
    chances = codes[:, v, u].T
    unsure = np.abs(chances - 0.5) < UNSURE
    sure_bits = np.where(unsure.any(1), unsure.argmax(1), BITS)
    kept = np.flatnonzero(sure_bits >= LEAST_BITS)
    kept = kept[:: max(1, -(-len(kept) // MOST_PIXELS))]
    v, u, sure_bits = v[kept], u[kept], sure_bits[kept]
    points = surface.located(codes_of(chances[kept] > 0.5), sure_bits).astype(float)
    weight = mask[v, u] / (1 + (surface.spread[sure_bits] / surface.spread[BITS // 2]) ** 2)
    pixels = (np.stack([u, v], -1) + 0.5) * stride - 0.5
    score = float(mask[v, u].mean()) if len(kept) else 0.0
    return Correspondences(object_id, pixels, points, weight, score)


def decode_maps(
    maps: np.ndarray, keypoints: np.ndarray, stride: int, threshold: float, object_id: int
) -> Correspondences:
    """Return where the keypoints (K, 3) of one object are seen, those whose maps (K, h, w) peak above
    ``threshold``, pixels of the crop; weighted by the peaks' height. score: its mean over all keypoints."""
    peaks = decode_peaks(maps, stride)
    kept = peaks.scores > threshold
    return Correspondences(
        object_id,
        peaks.points[kept],
        keypoints[kept],
        peaks.scores[kept],
        float(peaks.scores.mean()),
        covariance=peaks.covariance[kept],
    )
