# SPDX-License-Identifier: Apache-2.0
"""A scene as plain numbers: which bodies are where, under which lights, seen by which camera.

World frame: z up, table top in z = 0, metres. Camera frame: OpenCV (z forward, y down).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.spatial.transform import Rotation

from training.render.shapes import Mesh


def target_name(object_id: int) -> str:
    """Return the name of an object to be learned among a stock's meshes."""
    return f"target:{object_id}"


@dataclass(frozen=True)
class Body:
    """One object in the scene: `mesh` names it, T_world_body (4, 4) may hold a scale (targets: rigid).

    `pictures` (L, S, S, 3) uint8 replaces the mesh's own colours. `footprint` (x, y, yaw, half length, half
    width) in metres is where it stands on the table and darkens it. `label` is 0, or 1, 2, ... for targets;
    `object_id` their BOP id.
    """

    mesh: str
    T_world_body: np.ndarray
    pictures: np.ndarray | None = None
    label: int = 0
    object_id: int = 0
    occluder: bool = False
    casts_shadow: bool = True
    specular: float = 0.0
    shininess: float = 20.0
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    repeat: float = 1.0
    footprint: tuple[float, float, float, float, float] | None = None


@dataclass(frozen=True)
class Light:
    """Directional (w = 0) or point (w = 1) light at `position` (4,) in the world; colour (3,) as it arrives
    at the scene's centre. The first light of a scene casts the shadows."""

    position: np.ndarray
    colour: np.ndarray


@dataclass(frozen=True)
class Scene:
    """Everything the renderer needs for one image; K (3, 3) px, background (H, W, 3) uint8 RGB."""

    bodies: tuple[Body, ...]
    lights: tuple[Light, ...]
    ambient_up: np.ndarray
    ambient_down: np.ndarray
    K: np.ndarray
    T_camera_world: np.ndarray
    background: np.ndarray
    centre: np.ndarray
    shadow_radius: float
    shadow_softness: float
    contact: float
    table: Body | None = None
    targets: tuple[Body, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(b for b in self.bodies if b.label))


@dataclass(frozen=True)
class Stock:
    """What scenes are made from: meshes by name (``target_name`` for those to be learned), photographs, names
    of user distractors."""

    meshes: dict[str, Mesh]
    photos: list[np.ndarray]
    user_distractors: tuple[str, ...]
    resting: dict[int, np.ndarray]
    """By object id: rotations (N, 3, 3) in which the object rests on the table."""

    def diameter(self, object_id: int) -> float:
        return self.meshes[target_name(object_id)].diameter


def transform(
    rotation: np.ndarray, translation: np.ndarray | Sequence[float], scale: np.ndarray | float = 1.0
) -> np.ndarray:
    """(4, 4) matrix that scales, then rotates, then translates."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * scale
    matrix[:3, 3] = translation
    return matrix


def turn(axis: str, degrees: float) -> np.ndarray:
    """(3, 3) rotation about a coordinate axis."""
    return Rotation.from_euler(axis, degrees, degrees=True).as_matrix()


def resting_rotations(mesh: Mesh) -> np.ndarray:
    """Rotations (N, 3, 3), N = 24 drawn by footprint area, that put a face of the convex hull flat
    on the table."""
    from scipy.spatial import ConvexHull

    hull = ConvexHull(np.unique(mesh.positions, axis=0))
    corners = hull.points[hull.simplices]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    picks = np.random.default_rng(0).choice(len(area), 24, p=area / area.sum())
    return np.stack(
        [Rotation.align_vectors([[0, 0, -1.0]], [hull.equations[k, :3]])[0].as_matrix() for k in picks]
    )
