# SPDX-License-Identifier: Apache-2.0
"""The surface family: decoding of its maps, and the search of the whole frame by the same network.

Every fourth pixel says, for each class, whether it sees it, which point of it (from the centre of the
object's box, in radii, that is half diameters), and the Laplace scale of that point's coordinates.
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from ..bundle.store import Bundle
from ..core.camera import Camera, Crop
from ..core.object_model import ObjectModel
from ..core.predictions import Correspondences
from .network import Network
from .preprocess import in_full_image, network_input
from .region import Places, Region, overlap
from .solve import SAME_OBJECT, ObjectPose, Stopwatch, check_size, solve

SUREST = 0.8  # share of an object's pixels that are solved, those with the smallest scales
SEEN = 0.15  # the search looks where masks are above it: a patch too many costs a look, one too few an object
SMALLEST = 6  # output pixels of a patch
MOST_PATCHES = 12  # of a frame that are looked at, largest first
SEARCH_ERROR = 2.5  # inlier threshold of the search, pixels of the network's input


def decode_surface(
    outputs: dict[str, np.ndarray],
    index: int,
    model: ObjectModel,
    stride: int,
    threshold: float,
    size: float = 1.0,
    where: np.ndarray | None = None,
) -> Correspondences:
    """Return what the pixels of the class at ``index`` see, pixels of the crop against points of the object.

    outputs: ``mask`` (1, C, h, w) in [0, 1], ``points`` (1, C, 3, h, w), ``scale`` (1, C, h, w). size: of the
    points that the network says over the true ones; they are divided by it about their mean
    (``DecodeSpec.vote_scale``). where (h, w) bool: only these pixels. A pixel's weight falls with the square
    of its scale, relative to the median one.
    """
    mask, scale = outputs["mask"][0, index], outputs["scale"][0, index]
    seen = mask > threshold if where is None else where
    v, u = np.nonzero(seen)
    kept = np.argsort(scale[v, u], kind="stable")[: int(np.ceil(SUREST * len(v)))]
    v, u = v[kept], u[kept]
    points = model.box_center + model.diameter / 2 * outputs["points"][0, index, :, v, u].astype(float)
    if size != 1.0 and len(points):
        points = points.mean(0) + (points - points.mean(0)) / size
    pixels = (np.stack([u, v], -1) + 0.5) * stride - 0.5
    relative = scale[v, u] / np.median(scale[v, u]) if len(v) else scale[v, u]
    score = float(mask[v, u].mean()) if len(v) else 0.0
    return Correspondences(model.id, pixels, points, mask[v, u] / np.maximum(relative, 1.0) ** 2, score)


class SurfaceSearch:
    """Finds where objects may be: the network on the whole frame at low resolution, and a rough pose of each
    patch of its masks."""

    def __init__(self, bundle: Bundle, network: Network, order: tuple[ObjectModel, ...]):
        self.bundle, self.network, self.spec, self.order = bundle, network, bundle.manifest.input, order
        self.objects = {model.id: model for model in order}

    def scaled(self, factors: Mapping[int, float]) -> SurfaceSearch:
        """Return the same search for objects that are ``factors[id]`` times as large as the bundle's."""
        order = tuple(m.scaled(factors.get(m.id, 1.0)) for m in self.order)
        return SurfaceSearch(self.bundle, self.network, order)

    def places(self, image: np.ndarray, camera: Camera) -> Places:
        """Return where to look in an RGB image (H, W, 3) uint8, largest patch first.

        A patch's place is the box of its rough pose, and the patch's own box too where these two disagree or
        there is no pose. No two places of one class are the same.
        """
        check_size(image, camera)
        watch = Stopwatch()
        crop = Crop.whole(camera.width, camera.height, self.spec.search_size, self.spec.stride)
        pixels = network_input(image, crop, self.spec)
        watch.lap("preprocess")
        outputs = self.network(pixels)
        watch.lap("network")
        patches = self._patches(outputs["mask"][0])
        watch.lap("decode")
        regions: list[Region] = []
        for index, where in patches:
            for box in self._boxes(outputs, index, where, crop, camera):
                region = Region(box, self.order[index].id)
                rivals = [r for r in regions if r.object_id == region.object_id]
                if all(overlap(region.box, r.box) < SAME_OBJECT for r in rivals):
                    regions.append(region)
        watch.lap("pnp")
        return Places(regions, watch.stages_ms)

    def _patches(self, masks: np.ndarray) -> list[tuple[int, np.ndarray]]:
        """Return connected pixels (h, w) bool of one class, with its index; largest first.

        masks: (C, h, w) in [0, 1].
        """
        found = []
        for index, mask in enumerate(masks):
            count, labels = cv2.connectedComponents((mask > SEEN).astype(np.uint8))
            for label in range(1, count):
                where = labels == label
                if where.sum() >= SMALLEST:
                    found.append((float(mask[where].sum()), index, where))
        best = sorted(found, key=lambda patch: -patch[0])[:MOST_PATCHES]
        return [(index, where) for _, index, where in best]

    def _boxes(
        self, outputs: dict[str, np.ndarray], index: int, where: np.ndarray, crop: Crop, camera: Camera
    ) -> list[np.ndarray]:
        """Return the boxes, raw pixels, in which the object of a patch may be, the likeliest first."""
        (stride,) = self.bundle.manifest.network.strides
        v, u = np.nonzero(where)
        ends = np.array([[u.min(), v.min()], [u.max() + 1, v.max() + 1]]) * stride - 0.5
        patch = crop.to_full(ends).ravel()
        pose = self._solve(outputs, index, where, crop, camera)
        if pose is None:
            return [patch]
        return [pose.box] if overlap(pose.box, patch) >= SAME_OBJECT else [pose.box, patch]

    def _solve(
        self, outputs: dict[str, np.ndarray], index: int, where: np.ndarray, crop: Crop, camera: Camera
    ) -> ObjectPose | None:
        model, (stride,) = self.order[index], self.bundle.manifest.network.strides
        decode = self.bundle.manifest.decode
        size = decode.vote_scale.get(str(model.id), 1.0)
        seen = decode_surface(outputs, index, model, stride, SEEN, size, where)
        threshold = SEARCH_ERROR / crop.scale
        correspondences = in_full_image(seen, crop, camera)
        return solve(correspondences, model, camera, threshold, decode, decode.calibration)
