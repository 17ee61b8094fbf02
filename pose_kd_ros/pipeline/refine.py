# SPDX-License-Identifier: Apache-2.0
"""The last step of a frame, where it is wanted: poses are refined on the image before anyone tracks them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ..bundle.manifest import BundleError
from ..bundle.store import Bundle
from ..core.camera import Camera
from ..core.edges import Refused, refine_on_edges
from ..core.mesh import Mesh
from ..core.object_model import ObjectModel
from ..core.uncertainty import stated_covariance
from .region import projected_box
from .solve import ObjectPose

KINDS = ("none", "edges")
# Added to a stated covariance, which may be far too sure: diameters, shares of the distance, radians.
LEAST_UNSURE = (0.02, 0.02, 0.05)


class EdgeRefiner:
    """Moves poses onto the image's edges (``core.edges``).

    meshes, objects: by object id. counts: how many poses were refined, and how many were left as they were,
    by the reason. A pose of an object without a mesh is left as it is and not counted.
    """

    def __init__(self, meshes: Mapping[int, Mesh], objects: Mapping[int, ObjectModel]):
        self.meshes, self.objects = meshes, objects
        self.counts: Counter[str] = Counter()

    def scaled(self, factors: Mapping[int, float]) -> EdgeRefiner:
        """Return the same refiner for objects that are ``factors[id]`` times as large."""
        meshes = {i: mesh.scaled(factors.get(i, 1.0)) for i, mesh in self.meshes.items()}
        return EdgeRefiner(meshes, {i: m.scaled(factors.get(i, 1.0)) for i, m in self.objects.items()})

    def __call__(self, image: np.ndarray, camera: Camera, poses: list[ObjectPose]) -> list[ObjectPose]:
        """Return the poses after refinement on an RGB image (H, W, 3) uint8; scores stay."""
        return [self._refined(image, camera, pose) for pose in poses]

    def _refined(self, image: np.ndarray, camera: Camera, pose: ObjectPose) -> ObjectPose:
        mesh, model = self.meshes.get(pose.object_id), self.objects[pose.object_id]
        if mesh is None:
            return pose
        covariance = stated_covariance(pose.covariance, pose.pose, model, 1.0, LEAST_UNSURE)
        try:
            refined = refine_on_edges(image, camera, mesh, pose.pose, covariance)
        except Refused as refused:
            self.counts[refused.reason] += 1
            return pose
        self.counts["refined"] += 1
        box = projected_box(refined.pose, model, camera)
        box = pose.box if box is None else box
        return replace(pose, pose=refined.pose, covariance=refined.covariance, box=box)


def make_refiner(kind: str, bundle: Bundle, given: Mapping[int, Mesh] | None = None) -> EdgeRefiner | None:
    """Return what refines the poses of a bundle's objects as they are in the bundle, before any scaling;
    None for the kind "none".

    given: meshes of objects that have none in the bundle. Raises BundleError where no object has a mesh.
    """
    if kind == "none":
        return None
    own = {model.id: mesh for model in bundle.objects if (mesh := bundle.mesh(model.id)) is not None}
    meshes = {**(given or {}), **own}
    if not meshes:
        raise BundleError(
            f"refine: wanted a mesh of an object in bundle {bundle.folder}, found none: "
            "python -m training add-mesh puts it there"
        )
    return EdgeRefiner(meshes, {model.id: model for model in bundle.objects})
