# SPDX-License-Identifier: Apache-2.0
"""The keypoint family: cells vote for the keypoints of an object, in the whole frame and in crops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..bundle.store import Bundle
from ..core.camera import Camera, Crop
from ..core.object_model import ObjectModel
from ..core.predictions import Correspondences, LocalPredictions
from .decode import decode_cells, group_cells, voted_boxes
from .estimator import ANSWERS, CropEstimator
from .network import Network
from .preprocess import crop_about, network_input
from .region import Places, Region, overlap, resized
from .score import highest_score
from .solve import (
    MOST_SCATTER,
    SAME_OBJECT,
    ObjectPose,
    Stopwatch,
    solve,
    with_track,
)

VOTE_ERROR = 0.03  # inlier threshold over the voted box: votes scatter by about 1 % of the object they see
FEWEST = 3  # cells of a group that the search looks at: fewer are chance (docs/results.md, evaluating)
# Boxes that a group votes for are so much larger than projected ones, and crops about them show more: in the
# true boxes of 190 held-out renders 64 % of the cubes are found, and 54 % in crops about boxes as they are.
WIDER = 1.1
MAX_GROUPS = 8  # groups of an image that are solved, best first: a busy background has many faint ones


class KeypointEstimator(CropEstimator):
    """A keypoint bundle, made to run."""

    def __init__(
        self,
        bundle: Bundle,
        network: Network,
        *,
        cell_score: float | None = None,
        pose_score: float | None = None,
        search_size: int | None = None,
    ):
        super().__init__(bundle, network, cell_score, pose_score)
        vote_scale = bundle.manifest.decode.vote_scale
        self.spread = np.array([1 / vote_scale.get(str(model.id), 1.0) for model in self.order])
        self.strides = bundle.manifest.network.strides
        self.search_size = search_size or self.spec.search_size

    def places(self, image: np.ndarray, camera: Camera) -> Places:
        """Return where to look in an image, as a locator of another bundle."""
        found = self.estimate(image, camera)
        return Places([Region(pose.box, pose.object_id) for pose in found.poses], found.stages_ms)

    def _candidates(
        self, image: np.ndarray, camera: Camera, known: Sequence[np.ndarray], watch: Stopwatch
    ) -> list[Region]:
        """Look at the whole frame at low resolution. Where to look is voted, not solved: PnP waits for the
        votes of the zoomed crop."""
        crop = Crop.whole(camera.width, camera.height, self.search_size, self.spec.stride)
        groups = self._groups_in(image, crop, watch, FEWEST)
        regions: list[Region] = []
        for votes in groups:
            box = resized(group_box(votes, crop), 1 / WIDER)
            if (box[2:] - box[:2] < 1).any():
                continue
            region = Region(box, self.order[int(votes.object_index[0])].id)
            rivals = [r.box for r in regions if r.object_id == region.object_id]
            if all(overlap(region.box, taken) < SAME_OBJECT for taken in [*known, *rivals]):
                regions.append(region)
        return regions

    def _look_at(
        self, image: np.ndarray, camera: Camera, region: Region, watch: Stopwatch
    ) -> list[ObjectPose]:
        """The best pose in a zoomed crop that overlaps the region's box; none if nothing does."""
        crop = crop_about(resized(region.box, WIDER), self.spec)
        groups = [g for g in self._groups_in(image, crop, watch) if self._worth_solving(g, crop, region)]
        found = self._solved(groups, crop, camera, watch, self.least_score(region))
        poses = [p for p in found if overlap(p.box, region.box) > ANSWERS]
        best = max(poses, key=lambda p: p.score * (0.5 + overlap(p.box, region.box)), default=None)
        return [] if best is None else [with_track(best, region.track_id)]

    def _worth_solving(self, votes: LocalPredictions, crop: Crop, region: Region) -> bool:
        """Whether a group may become a pose that is kept: of the wanted class, near the region, and with a
        score above the threshold if all its votes were to agree."""
        if region.object_id not in (None, self.order[int(votes.object_index[0])].id):
            return False
        if overlap(group_box(votes, crop), region.box) < ANSWERS / 2:
            return False
        most = highest_score(best_cells(votes), len(votes), MOST_SCATTER, self.weights)
        return most >= self.least_score(region)

    def _groups_in(
        self, image: np.ndarray, crop: Crop, watch: Stopwatch, smallest: int = 1
    ) -> list[LocalPredictions]:
        """The votes of each instance in a crop that has as many cells as ``smallest``, best first."""
        pixels = network_input(image, crop, self.spec)
        watch.lap("preprocess")
        outputs = self.network(pixels)
        watch.lap("network")
        votes = decode_cells(outputs, self.strides, crop.height, crop.width, self.cell_score)
        votes = votes.spread(self.spread) if (self.spread != 1).any() else votes
        groups = [votes.select(group) for group in group_cells(votes, smallest)[:MAX_GROUPS]]
        watch.lap("decode")
        return groups

    def _solved(
        self, groups: list[LocalPredictions], crop: Crop, camera: Camera, watch: Stopwatch, least: float
    ) -> list[ObjectPose]:
        """The poses of those groups that have one whose score could reach ``least``."""
        poses = [pose for group in groups if (pose := self._solve(group, crop, camera, least)) is not None]
        watch.lap("pnp")
        return poses

    def _solve(self, votes: LocalPredictions, crop: Crop, camera: Camera, least: float) -> ObjectPose | None:
        """The pose that one group's votes hold."""
        model = self.order[int(votes.object_index[0])]
        boxes = voted_boxes(votes.points)
        threshold = max(1.0, VOTE_ERROR * float(np.median((boxes[:, 2:] - boxes[:, :2]).max(1)))) / crop.scale
        correspondences = to_correspondences(votes, model, crop, camera)
        decode = self.bundle.manifest.decode
        return solve(correspondences, model, camera, threshold, decode, self.weights, least)


def to_correspondences(
    votes: LocalPredictions, model: ObjectModel, crop: Crop, camera: Camera
) -> Correspondences:
    """N cells x K votes as rows, in undistorted full-image pixels, weighted by the cells' ``weights``."""
    count = len(model.keypoints)
    image = camera.undistort(crop.to_full(votes.points.reshape(-1, 2)))
    return Correspondences(
        model.id,
        image,
        np.tile(model.keypoints, (len(votes), 1)),
        np.repeat(votes.weights, count),
        best_cells(votes),
        np.repeat(np.arange(len(votes)), count),
    )


def best_cells(votes: LocalPredictions) -> float:
    """The mean score of a group's five best cells: how sure the network is of the class."""
    return float(np.sort(votes.scores)[-5:].mean())


def group_box(votes: LocalPredictions, crop: Crop) -> np.ndarray:
    """The box (x0, y0, x1, y1) that a group's cells vote for, each side their median, in full, raw pixels."""
    box = np.median(voted_boxes(votes.points), axis=0)
    return crop.to_full(box.reshape(2, 2)).reshape(4)
