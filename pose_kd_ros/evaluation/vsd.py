# SPDX-License-Identifier: Apache-2.0
"""Visible surface discrepancy (VSD) of BOP19: compares what of the object can be seen at two poses.

Distances are along the rays, metres, 0 where there is nothing; pixel centres at integers. Rays are cast with
open3d, which nothing else needs but ``--mesh FILE``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..core.camera import Camera, project_pinhole
from ..core.object_model import ObjectModel
from ..core.pose import transform
from ..datasets.bop import BopImage
from ..datasets.meshes import import_open3d

TAUS = np.arange(1, 11) / 20  # of the diameter
THRESHOLDS = np.arange(1, 11) / 20  # an error below is right
DELTA = 0.015  # metres that a visible surface may lie behind the measured one


def vsd(estimated, true, measured, diameter: float, taus=TAUS, delta: float = DELTA) -> np.ndarray:
    """Error (T,) in [0, 1] for each tau, the share of the visible pixels that disagree.

    estimated, true: the object's distances (H, W) at the two poses; measured: the sensor's. A pixel that the
    sensor knows nothing of hides nothing. Source: bop_toolkit, ``visib_mode="bop19"``, ``cost_type="step"``.
    """
    seen_true = visible(true, measured, delta)
    seen = visible(estimated, measured, delta) | (seen_true & (estimated > 0))
    either, both = np.count_nonzero(seen | seen_true), seen & seen_true
    if not either:
        return np.ones(len(taus))
    gaps = np.abs(true[both] - estimated[both]) / diameter
    far = (gaps[:, None] >= np.asarray(taus)).sum(0)
    return (far + either - np.count_nonzero(both)) / either


def visible(distance, measured, delta: float = DELTA) -> np.ndarray:
    """Where (H, W) an object is seen: at most ``delta`` behind what was measured, or nothing was measured."""
    return (distance > 0) & ((distance - measured <= delta) | (measured == 0))


@dataclass(frozen=True)
class Rays:
    """The rays of a camera's pixels: K (3, 3) px. lens: the camera where it distorts, None for a pinhole."""

    K: np.ndarray
    width: int
    height: int
    lens: Camera | None = None

    @classmethod
    def of(cls, camera: Camera) -> Rays:
        return cls(camera.K, camera.width, camera.height, camera if len(camera.D) else None)

    def same(self, other: Rays) -> bool:
        """Whether these are the rays of the same camera."""
        D, others = (() if one.lens is None else one.lens.D for one in (self, other))
        mine, its = ((one.width, one.height, one.lens and one.lens.model) for one in (self, other))
        return mine == its and np.array_equal(self.K, other.K) and np.array_equal(D, others)

    @cached_property
    def directions(self) -> np.ndarray:
        """(H, W, 3) unit, camera frame; NaN for pixels that no ray of the lens reaches."""
        v, u = np.mgrid[0 : self.height, 0 : self.width]
        if self.lens is None:
            through = np.stack([u, v, np.ones(u.shape)], -1) @ np.linalg.inv(self.K).T
        else:
            through = self.lens.rays(np.stack([u, v], -1).reshape(-1, 2)).reshape(*u.shape, 3)
        return through / np.linalg.norm(through, axis=-1, keepdims=True)

    def window(self, points) -> tuple[slice, slice]:
        """Rows and columns of the pixels that may see what lies between points (N, 3) before the camera."""
        seen = project_pinhole(self.K, points)
        low, high = np.floor(seen.min(0)), np.ceil(seen.max(0)) + 1
        if self.lens is None:
            (left, top), (right, bottom) = np.clip([low, high], 0, (self.width, self.height)).astype(int)
            return slice(top, bottom), slice(left, right)
        inside = ((self._ideal >= low) & (self._ideal <= high)).all(-1)  # straight edges are bent in pixels
        return _extent(inside.any(1)), _extent(inside.any(0))

    @cached_property
    def _ideal(self) -> np.ndarray:
        """(H, W, 2): where a pinhole would see what each pixel of the lens sees."""
        return project_pinhole(self.K, self.directions)

    def to_distance(self, depth) -> np.ndarray:
        """A depth image (H, W), metres along the optical axis -> metres along each ray."""
        return depth / self.directions[..., 2]


class Caster:
    """Meshes by object id, vertices (V, 3) metres and triangles (F, 3), to cast rays at."""

    def __init__(self, meshes: dict[int, tuple[np.ndarray, np.ndarray]]):
        core = import_open3d().core
        self._vertices = {i: np.asarray(vertices, float) for i, (vertices, _) in meshes.items()}
        self._scenes = {}
        for object_id, (vertices, triangles) in meshes.items():
            scene = import_open3d().t.geometry.RaycastingScene()
            scene.add_triangles(
                core.Tensor(np.asarray(vertices, np.float32)), core.Tensor(np.asarray(triangles, np.uint32))
            )
            self._scenes[object_id] = scene

    def distance(self, object_id: int, pose, rays: Rays) -> np.ndarray:
        """Distances (H, W) to the object at ``T_camera_object``, 0 beside it."""
        result = np.zeros((rays.height, rays.width))
        window = self._window(object_id, pose, rays)
        inward = np.linalg.inv(pose)
        looking = rays.directions[window] @ inward[:3, :3].T
        start = np.broadcast_to(inward[:3, 3], looking.shape)
        cast = import_open3d().core.Tensor(np.concatenate([start, looking], -1).astype(np.float32))
        hit = self._scenes[object_id].cast_rays(cast)["t_hit"].numpy()
        result[window] = np.where(np.isfinite(hit), hit, 0.0)
        return result

    def _window(self, object_id: int, pose, rays: Rays) -> tuple[slice, slice]:
        """The pixels that may see it: all of them where part of it is behind the camera."""
        points = transform(pose, self._vertices[object_id])
        if (points[:, 2] <= 0).any():
            return slice(0, rays.height), slice(0, rays.width)
        return rays.window(points)


def _extent(taken: np.ndarray) -> slice:
    """From the first to the last that is taken (N,)."""
    places = np.flatnonzero(taken)
    return slice(places[0], places[-1] + 1) if len(places) else slice(0, 0)


@dataclass(frozen=True)
class Sensor:
    """What a depth camera measured: distances (H, W) along its rays, metres, 0 where nothing."""

    rays: Rays
    measured: np.ndarray

    @classmethod
    def of(cls, image: BopImage) -> Sensor:
        """The depth of an image; raises DatasetError where it has none, or it is damaged."""
        depth = image.load_depth()
        rays = Rays(image.K, depth.shape[1], depth.shape[0])
        return cls(rays, rays.to_distance(depth))


def vsd_of_pairs(caster: Caster, model: ObjectModel, estimated, true, sensor: Sensor) -> np.ndarray:
    """Errors (E, G, T) between all poses ``estimated`` (E, 4, 4) and ``true`` (G, 4, 4) of one object."""
    found, wanted = (
        [caster.distance(model.id, pose, sensor.rays) for pose in poses] for poses in (estimated, true)
    )
    errors = [[vsd(a, b, sensor.measured, model.diameter) for b in wanted] for a in found]
    return np.array(errors).reshape(len(found), len(wanted), len(TAUS))
