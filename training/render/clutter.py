# SPDX-License-Identifier: Apache-2.0
"""Objects that lie around a target, under it and in front of it; never cubes, which could be targets."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TypedDict

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from training.render import pictures
from training.render.config import RenderConfig
from training.render.scene import Body, Stock, transform, turn
from training.render.shapes import Mesh

Rng = np.random.Generator


def loguniform(rng: Rng, low: float, high: float) -> float:
    """Uniform in the logarithm between two positive numbers."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def footprint(pose: np.ndarray, mesh: Mesh) -> tuple[float, float, float, float, float] | None:
    """Smallest-area rectangle under a body: exact for boxes on a face."""
    points = mesh.positions[:: max(1, len(mesh.positions) // 500)] @ pose[:3, :3].T + pose[:3, 3]
    if points[:, 2].min() > 0.01:
        return None
    (x, y), (w, h), angle = cv2.minAreaRect(points[:, :2].astype(np.float32))
    return x, y, float(np.radians(angle)), w / 2, h / 2


class Material(TypedDict):
    """How a body's surface shines."""

    specular: float
    shininess: float


def material(rng: Rng) -> Material:
    shiny = rng.random() < 0.4
    return {"specular": float(rng.uniform(0.05, 0.6)) if shiny else 0.0, "shininess": loguniform(rng, 5, 80)}


@dataclass(frozen=True)
class View:
    config: RenderConfig
    K: np.ndarray
    T_camera_world: np.ndarray
    depth: float
    on_table: bool

    def point(self, pixel: np.ndarray, depth: float) -> np.ndarray:
        """World point (3,) seen at the pixel at that depth."""
        in_camera = depth * np.linalg.solve(self.K, [*pixel, 1.0])
        return self.T_camera_world[:3, :3].T @ (in_camera - self.T_camera_world[:3, 3])

    def ground(self, pixel: np.ndarray) -> np.ndarray | None:
        """Table point seen at the pixel, None above the horizon or far away."""
        a, b = self.point(pixel, 0.0), self.point(pixel, 1.0)
        along = -a[2] / (b - a)[2] if (b - a)[2] < -1e-3 else np.inf
        return a + along * (b - a) if along < 3.5 * self.depth else None


def clutter(
    stock: Stock, rng: Rng, view: View, targets: list[Body], count: int, diameter: float
) -> list[Body]:
    """Return distractors about as large as an object of this diameter, metres, that do not intersect the
    targets."""
    taken = [(b.T_world_body[:3, 3], stock.meshes[b.mesh].diameter * 0.4) for b in targets]
    found = _sheets(stock, rng, view, diameter) if view.on_table and rng.random() < 0.35 else []
    for _ in range(count):
        pixel = rng.uniform([-0.05, -0.05], [1.05, 1.05]) * [view.config.width, view.config.height]
        body = _distractor(stock, rng, diameter * loguniform(rng, 0.25, 2.5))
        radius = _radius(stock.meshes[body.mesh], body)
        if view.on_table:
            at = view.ground(pixel)
        else:
            at = view.point(pixel, view.depth * rng.uniform(0.7, 2.5))
        if at is None or any(
            np.linalg.norm((at - p)[: 2 + (not view.on_table)]) < 0.75 * (radius + r) for p, r in taken
        ):
            continue
        taken.append((at, radius))
        found.append(_placed(stock, body, at, view.on_table))
    return found


def _radius(mesh: Mesh, body: Body) -> float:
    _, size = mesh.box
    return float(np.linalg.norm(body.T_world_body[:3, :3] @ size) / 2)


def _placed(stock: Stock, body: Body, at: np.ndarray, on_table: bool) -> Body:
    mesh, pose = stock.meshes[body.mesh], body.T_world_body.copy()
    pose[:3, 3] = at
    if on_table:
        pose[2, 3] = -(mesh.positions @ pose[:3, :3].T)[:, 2].min()
    return dataclasses.replace(body, T_world_body=pose, footprint=footprint(pose, mesh) if on_table else None)


_SHAPES = (
    "box",
    "box",
    "box",
    "cylinder",
    "cylinder",
    "cone",
    "sphere",
    "capsule",
    "torus",
    "ring",
    "blob0",
    "blob1",
    "blob2",
    "blob3",
)


def _distractor(stock: Stock, rng: Rng, size: float) -> Body:
    """Return an object of about `size` metres at the origin, lying or standing; never a cube."""
    if stock.user_distractors and rng.random() < 0.35:
        name = stock.user_distractors[rng.integers(len(stock.user_distractors))]
        rotation = _lying(rng)
        images = pictures.face_pictures(rng, stock.photos, 128) if rng.random() < 0.2 else None
        return Body(name, transform(rotation, np.zeros(3)), images, **material(rng))
    name = _SHAPES[rng.integers(len(_SHAPES))]
    scale = size * _aspect(rng, name)
    images = pictures.face_pictures(rng, stock.photos, 128, 6 if name == "box" else 1)
    return Body(name, transform(_lying(rng), np.zeros(3), scale), images, **material(rng))


def _lying(rng: Rng) -> np.ndarray:
    upright = turn("z", rng.uniform(0, 360))
    if rng.random() < 0.6:
        return upright
    return (
        upright @ turn("x", 90)
        if rng.random() < 0.5
        else Rotation.random(random_state=int(rng.integers(2**31))).as_matrix()
    )


def _aspect(rng: Rng, name: str) -> np.ndarray:
    """Scale (3,): a box is always clearly longer one way than another."""
    if name == "box":
        sides = np.array([1.0, loguniform(rng, 0.15, 1.0), loguniform(rng, 0.03, 0.7)])
        return rng.permutation(sides)
    if name in ("cylinder", "cone"):
        return np.array([1.0, 1.0, loguniform(rng, 0.2, 5.0)]) * 0.7
    return np.array([1.0, rng.uniform(0.7, 1.0), rng.uniform(0.7, 1.0)])


def _sheets(stock: Stock, rng: Rng, view: View, diameter: float) -> list[Body]:
    """Return flat objects that may lie under the target: paper, books, mats."""
    found = []
    for level in range(rng.integers(1, 4)):
        at = view.ground(rng.uniform([0, 0], [1, 1]) * [view.config.width, view.config.height])
        if at is None:
            continue
        sides = diameter * loguniform(rng, 0.8, 4.0) * np.array([1.0, rng.uniform(0.5, 1.0)])
        size = np.array([*sides, 0.0006])
        paper = np.full((1, 8, 8, 3), rng.uniform(180, 255), np.uint8)
        images = paper if rng.random() < 0.6 else pictures.picture(rng, stock.photos, 256)[None]
        pose = transform(turn("z", rng.uniform(0, 360)), [at[0], at[1], 0.0004 * level], size)
        found.append(Body("box", pose, images, casts_shadow=False))
    return found


def occluder(stock: Stock, rng: Rng, view: View, centre: np.ndarray, diameter: float) -> Body:
    """Return an object that hangs between the camera and the target, to one side of the target."""
    in_camera = view.T_camera_world[:3, :3] @ centre + view.T_camera_world[:3, 3]
    middle = (view.K @ in_camera)[:2] / in_camera[2]
    angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.35, 0.9)
    size_px = view.K[0, 0] * 0.8 * diameter / in_camera[2]
    pixel = middle + reach * size_px * np.array([np.cos(angle), np.sin(angle)])
    nearness = rng.uniform(0.5, 0.85)
    body = _distractor(stock, rng, diameter * nearness * loguniform(rng, 0.5, 2.0))
    rotation = Rotation.random(random_state=int(rng.integers(2**31))).as_matrix()
    pose = body.T_world_body.copy()
    pose[:3, :3] = rotation @ pose[:3, :3]
    pose[:3, 3] = view.point(pixel, in_camera[2] * nearness)
    return dataclasses.replace(body, T_world_body=pose, occluder=True)
