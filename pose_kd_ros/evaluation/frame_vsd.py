# SPDX-License-Identifier: Apache-2.0
"""VSD on a recording: what its depth images say of estimates and truth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from ..core.object_model import ObjectModel
from ..core.sensor_messages import UnusableMessage
from ..datasets.faults import DatasetError
from ..recordings.bags import Bag, BagError
from ..recordings.depth import DepthImages
from ..recordings.images import BagFrame
from .frame import Estimate, Frame, TrueInstance
from .shapes import Silhouette
from .vsd import Caster, Rays, Sensor, vsd_of_pairs


@dataclass
class FrameVsd:
    """Measures VSD of a frame's estimates."""

    depth: DepthImages
    caster: Caster
    objects: Mapping[int, ObjectModel]
    _rays: Rays | None = None

    @classmethod
    def make(cls, bag: Bag, topic: str, shapes: Mapping[int, Silhouette], objects) -> FrameVsd:
        """bag: as ``DepthImages`` wants it. shapes: what --mesh says; objects without are left out. Raises
        BagError: no such topic, no shape at all, no open3d."""
        if not shapes:
            raise BagError("--depth: wanted --mesh, too, found none: VSD renders the objects")
        try:
            caster = Caster({key: (shape.vertices, triangles(shape.faces)) for key, shape in shapes.items()})
        except DatasetError as error:
            raise BagError(f"--depth: {error}") from error
        return cls(DepthImages(bag, topic), caster, {key: objects[key] for key in shapes})

    def measure(self, image: BagFrame, frame: Frame) -> Frame:
        """Return the frame with its ``vsd``, or with a ``depth_fault``."""
        try:
            depth = self.depth.at(image)
        except UnusableMessage as error:
            return replace(frame, depth_fault=str(error))
        rays = self._rays_of(image)
        sensor = Sensor(rays, rays.to_distance(depth))
        errors = {}
        for key, model in self.objects.items():
            found, true = poses(frame.measured_estimates, key), poses(frame.truth, key)
            errors[str(key)] = vsd_of_pairs(self.caster, model, found, true, sensor).tolist()
        return replace(frame, vsd=errors)

    def _rays_of(self, image: BagFrame) -> Rays:
        """Those of the last picture, if its camera was the same: they take longer to make than to use."""
        made = Rays.of(image.camera)
        if self._rays is None or not self._rays.same(made):
            self._rays = made
        return self._rays


def poses(entries: Iterable[Estimate | TrueInstance], object_id: int) -> list[np.ndarray]:
    return [one.T_camera_object for one in entries if one.object_id == object_id]


def triangles(faces: np.ndarray) -> np.ndarray:
    """Faces (F, 3) or (F, 4) as triangles."""
    faces = np.asarray(faces)
    return faces if faces.shape[1] == 3 else np.concatenate([faces[:, [0, 1, 2]], faces[:, [0, 2, 3]]])
