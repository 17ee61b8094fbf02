# SPDX-License-Identifier: Apache-2.0
"""The last step of a frame, where it is wanted: poses are refined on the image before anyone tracks them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

import numpy as np

from ..bundle.manifest import BundleError
from ..bundle.store import Bundle
from ..core.camera import Camera
from ..core.depth_fit import refine_on_depth
from ..core.edges import Refused, refine_on_edges
from ..core.mesh import Mesh
from ..core.object_model import ObjectModel
from ..core.uncertainty import shared_covariance
from .region import projected_box
from .score import AGREEMENT
from .solve import ObjectPose

KINDS = ("auto", "none", "edges")
# Added to a stated covariance, which may be far too sure: diameters, shares of the distance, radians.
LEAST_UNSURE = (0.02, 0.02, 0.05)
# Edge refinement is repeated from its result at most MOST_AGAIN times, while the agreement is at most GOOD
# and grows by at least BETTER.
MOST_AGAIN, GOOD, BETTER = 3, 0.85, 0.02
Made = TypeVar("Made", bound="Refiner")


class Refiner(ABC):
    """Moves poses onto what an image shows.

    meshes, objects: by object id. counts: how many poses were refined, and how many were left as they were,
    by the reason. A pose of an object without a mesh is left as it is and not counted.
    """

    def __init__(self, meshes: Mapping[int, Mesh], objects: Mapping[int, ObjectModel]):
        self.meshes, self.objects = meshes, objects
        self.counts: Counter[str] = Counter()

    def scaled(self: Made, factors: Mapping[int, float]) -> Made:
        """Return the same refiner for objects that are ``factors[id]`` times as large."""
        meshes = {i: mesh.scaled(factors.get(i, 1.0)) for i, mesh in self.meshes.items()}
        return type(self)(meshes, {i: m.scaled(factors.get(i, 1.0)) for i, m in self.objects.items()})

    def __call__(self, image: np.ndarray, camera: Camera, poses: list[ObjectPose]) -> list[ObjectPose]:
        """Return the poses after refinement on an image, as the kind of refiner wants it. Scores stay; their
        terms have the agreement, where it is known."""
        return [self._refined(image, camera, pose) for pose in poses]

    def _refined(self, image: np.ndarray, camera: Camera, pose: ObjectPose) -> ObjectPose:
        mesh, model = self.meshes.get(pose.object_id), self.objects[pose.object_id]
        if mesh is None:
            return pose
        covariance = pose.covariance + shared_covariance(pose.pose, model.diameter, LEAST_UNSURE)
        try:
            moved, covariance, agreement = self._refine(image, camera, mesh, pose.pose, covariance)
        except Refused as refused:
            self.counts[refused.reason] += 1
            return replace(pose, evidence=_with_agreement(pose.evidence, refused.agreement))
        self.counts["refined"] += 1
        box = projected_box(moved, model, camera)
        box = pose.box if box is None else box
        terms = _with_agreement(pose.evidence, agreement)
        return replace(pose, pose=moved, covariance=covariance, box=box, evidence=terms)

    @abstractmethod
    def _refine(
        self, image: np.ndarray, camera: Camera, mesh: Mesh, pose: np.ndarray, covariance: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """Return the refined pose (4, 4), its covariance (6, 6) and the share of edge points that agree, NaN
        where that is not a matter of edges. Raises Refused."""


class EdgeRefiner(Refiner):
    """Moves poses onto the edges of an RGB image (H, W, 3) uint8 (``core.edges``)."""

    def _refine(
        self, image: np.ndarray, camera: Camera, mesh: Mesh, pose: np.ndarray, covariance: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, float]:
        refined = refine_on_edges(image, camera, mesh, pose, covariance)
        for _ in range(MOST_AGAIN):  # far from the true pose, some of the nearest edges are wrong
            if refined.agreement > GOOD:
                break
            try:
                again = refine_on_edges(image, camera, mesh, refined.pose, covariance)
            except Refused:
                break
            if again.agreement < refined.agreement + BETTER:
                break
            refined = again
        return refined.pose, refined.covariance, refined.agreement


class DepthRefiner(Refiner):
    """Moves poses onto the surface in an aligned depth image (H, W), metres (``core.depth_fit``)."""

    def _refine(
        self, image: np.ndarray, camera: Camera, mesh: Mesh, pose: np.ndarray, covariance: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, float]:
        return *refine_on_depth(image, camera, mesh, pose, covariance), math.nan


def _with_agreement(terms: np.ndarray, agreement: float) -> np.ndarray:
    """A refiner that knows nothing of edges leaves what another one has found."""
    if math.isnan(agreement):
        return terms
    return np.append(terms[:AGREEMENT], agreement)


def make_refiner(kind: str, bundle: Bundle, given: Mapping[int, Mesh] | None = None) -> Refiner | None:
    """Return what refines the poses of a bundle's objects as they are in the bundle, before any scaling;
    None for the kind "none".

    kind: one of KINDS, or "depth"; "auto" is "edges" where the bundle has a mesh, else "none".
    given: meshes of objects that have none in the bundle. Raises BundleError where no object has a mesh.
    """
    if kind == "none":
        return None
    own = {model.id: mesh for model in bundle.objects if (mesh := bundle.mesh(model.id)) is not None}
    if kind == "auto" and not own:
        return None
    meshes = own if kind == "auto" else {**(given or {}), **own}
    if not meshes:
        raise BundleError(
            f"refine: wanted a mesh of an object in bundle {bundle.folder}, found none: "
            "python -m training add-mesh puts it there"
        )
    made = DepthRefiner if kind == "depth" else EdgeRefiner
    return made(meshes, {model.id: model for model in bundle.objects})
