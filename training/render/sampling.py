# SPDX-License-Identifier: Apache-2.0
"""Draw random scenes: target, camera, table, lights, background; clutter.py adds what lies around.

Nothing here uses the graphics library. Generators in the same state give the same scenes.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from training.render import pictures
from training.render.clutter import View, clutter, footprint, loguniform, material, occluder
from training.render.config import RenderConfig
from training.render.scene import Body, Light, Scene, Stock, target_name, transform, turn

Rng = np.random.Generator


def sample_scene(config: RenderConfig, stock: Stock, rng: Rng) -> Scene:
    """Return a random scene; generators in the same state give the same one."""
    on_table = rng.random() < config.table_probability
    object_id = _one_of(list(stock.resting), rng)
    target = stock.meshes[target_name(object_id)]
    K = _camera_matrix(config, rng)
    depth = K[0, 0] * 0.8 * target.diameter / loguniform(rng, *config.size_px)
    first = _target_pose(stock, rng, object_id, on_table)
    T_camera_world = _camera_pose(config, rng, K, depth, first[:3, 3], on_table)
    bodies = _targets(config, stock, rng, object_id, first, on_table)
    view = View(config, K, T_camera_world, depth, on_table)
    bodies += clutter(
        stock, rng, view, bodies, int(rng.integers(config.max_distractors + 1)), target.diameter
    )
    if rng.random() < config.occluder_probability:
        bodies += [occluder(stock, rng, view, first[:3, 3], target.diameter)]
    lights, up, down = scene_lights(rng, first[:3, 3], depth)
    return Scene(
        tuple(bodies),
        lights,
        up,
        down,
        K,
        T_camera_world,
        _background(config, stock, rng),
        first[:3, 3],
        max(3 * target.diameter, min(0.8 * depth, 1.2)),
        loguniform(rng, 0.5, 6.0),
        float(rng.uniform(0.2, 0.9)),
        _table(stock, rng, depth, target.diameter) if on_table else None,
    )


def _one_of(ids: list[int], rng: Rng) -> int:
    """Return the id of one object; with only one object, no random number is drawn."""
    return ids[0] if len(ids) == 1 else ids[rng.integers(len(ids))]


def _camera_matrix(config: RenderConfig, rng: Rng) -> np.ndarray:
    focal = rng.uniform(*config.focal_px)
    shift = rng.uniform(-config.principal_jitter_px, config.principal_jitter_px, 2)
    centre = np.array([config.width - 1, config.height - 1]) / 2 + shift
    return np.array([[focal, 0, centre[0]], [0, focal * rng.uniform(0.99, 1.01), centre[1]], [0, 0, 1]])


def _target_pose(stock: Stock, rng: Rng, object_id: int, on_table: bool) -> np.ndarray:
    if not on_table:
        return transform(Rotation.random(random_state=int(rng.integers(2**31))).as_matrix(), np.zeros(3))
    resting, mesh = stock.resting[object_id], stock.meshes[target_name(object_id)]
    rotation = turn("z", rng.uniform(0, 360)) @ resting[rng.integers(len(resting))]
    return transform(rotation, [0, 0, -(mesh.hull @ rotation.T)[:, 2].min()])


def _camera_pose(
    config: RenderConfig, rng: Rng, K: np.ndarray, depth: float, centre: np.ndarray, on_table: bool
) -> np.ndarray:
    """T_camera_world with `centre` at the given depth somewhere in the picture and the camera
    above the table."""
    for _ in range(50):
        pixel = rng.uniform([0.06, 0.06], [0.94, 0.94]) * [config.width, config.height]
        in_camera = depth * np.linalg.solve(K, [*pixel, 1.0])
        elevation = rng.uniform(*config.elevation_deg)
        rotation = looking(elevation, rng.uniform(0, 360), rng.uniform(-config.roll_deg, config.roll_deg))
        T_camera_world = transform(rotation, in_camera - rotation @ centre)
        height = -(rotation.T @ T_camera_world[:3, 3])[2]
        if not on_table or height > depth * np.sin(np.radians(config.elevation_deg[0])):
            break
    return T_camera_world


def looking(elevation: float, azimuth: float, roll: float) -> np.ndarray:
    """R_camera_world of a camera that looks down by `elevation` degrees."""
    level = np.array([[1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]])  # x right, y down, z = world y
    return turn("z", roll) @ turn("x", elevation) @ level @ turn("z", azimuth)


def _targets(
    config: RenderConfig, stock: Stock, rng: Rng, object_id: int, first: np.ndarray, on_table: bool
) -> list[Body]:
    """Return no, one or two instances of the object, and some of the data set's other objects."""
    kind = rng.random()
    if kind < config.empty_probability:
        return []
    placed = [(object_id, first)]
    if kind < config.empty_probability + config.second_probability:
        placed.append((object_id, _second_pose(stock, rng, object_id, first, on_table)))
    for other in _others(stock, rng, object_id, config.max_others):
        for _ in range(10):
            pose = _pose_nearby(stock, rng, other, first, stock.diameter(object_id), on_table)
            if all(_apart(stock, other, pose, *there, on_table) for there in placed):
                placed.append((other, pose))
                break
    return [_target(config, stock, rng, *there, label, on_table) for label, there in enumerate(placed, 1)]


def _others(stock: Stock, rng: Rng, object_id: int, most: int) -> list[int]:
    ids = [i for i in stock.resting if i != object_id]
    return list(rng.permutation(ids)[: rng.integers(min(most, len(ids)) + 1)]) if ids else []


def _apart(stock: Stock, a: int, pose: np.ndarray, b: int, there: np.ndarray, on_table: bool) -> bool:
    """Return whether two objects are too far apart to intersect, taken as spheres of 0.8 diameters."""
    gap = (pose[:3, 3] - there[:3, 3])[: 2 if on_table else 3]
    return bool(np.linalg.norm(gap) > 0.4 * (stock.diameter(a) + stock.diameter(b)))


def _second_pose(stock: Stock, rng: Rng, object_id: int, first: np.ndarray, on_table: bool) -> np.ndarray:
    mesh = stock.meshes[target_name(object_id)]
    if rng.random() < 0.5:  # side by side, touching or nearly
        side = rng.integers(3)
        step = first[:3, side] * (mesh.box[1][side] + rng.choice([0.0, 0.002, 0.01])) * rng.choice([-1, 1])
        if not on_table or abs(step[2]) < 1e-6 or step[2] > 0:
            return transform(first[:3, :3], first[:3, 3] + step)
    return _pose_nearby(stock, rng, object_id, first, mesh.diameter, on_table)


def _pose_nearby(
    stock: Stock, rng: Rng, object_id: int, first: np.ndarray, diameter: float, on_table: bool
) -> np.ndarray:
    """Return a random pose of an object, one to two and a half diameters from the first one."""
    pose = _target_pose(stock, rng, object_id, on_table)
    if on_table:
        angle = rng.uniform(0, 2 * np.pi)
        direction = np.array([np.cos(angle), np.sin(angle), 0])
    else:
        direction = rng.normal(size=3)
        direction /= np.linalg.norm(direction)
    pose[:2, 3] += first[:2, 3]
    pose[:3, 3] += direction * diameter * rng.uniform(1.0, 2.5)
    return pose


def _target(
    config: RenderConfig, stock: Stock, rng: Rng, object_id: int, pose: np.ndarray, label: int, on_table: bool
) -> Body:
    images = pictures.face_pictures(rng, stock.photos, 256) if config.appearance == "random" else None
    name = target_name(object_id)
    foot = footprint(pose, stock.meshes[name]) if on_table else None
    return Body(name, pose, images, label, object_id=int(object_id), footprint=foot, **material(rng))


def scene_lights(
    rng: Rng, centre: np.ndarray, depth: float
) -> tuple[tuple[Light, ...], np.ndarray, np.ndarray]:
    warmth = np.array([1.0, 1.0, 1.0]) + rng.uniform(-0.12, 0.12) * np.array([1, 0, -1.0])
    share = rng.beta(2.0, 2.0)  # of the light that is directed
    level = loguniform(rng, 0.5, 1.2)
    count = int(rng.integers(1, 4))
    split = rng.dirichlet(np.full(count, 1.0))
    split = np.sort(split)[::-1]
    lights = tuple(_light(rng, centre, depth, warmth * level * share * 1.6 * part) for part in split)
    ambient = warmth[::-1] * level * (1 - share)
    return lights, ambient * rng.uniform(0.8, 1.2), ambient * rng.uniform(0.4, 1.0)


def _light(rng: Rng, centre: np.ndarray, depth: float, colour: np.ndarray) -> Light:
    height, angle = np.radians(rng.uniform(15, 88)), rng.uniform(0, 2 * np.pi)
    direction = np.array([np.cos(height) * np.cos(angle), np.cos(height) * np.sin(angle), np.sin(height)])
    colour = colour * rng.uniform(0.9, 1.1, 3)
    if rng.random() < 0.5:
        return Light(np.array([*direction, 0.0]), colour)
    return Light(np.array([*(centre + direction * loguniform(rng, 0.5, 3.0)), 1.0]), colour)


def _table(stock: Stock, rng: Rng, depth: float, diameter: float) -> Body:
    """Return the table top: endless, or a desk with edges in sight; mostly plain, else wood, print
    or a photograph."""
    size = rng.uniform(4, 12) if rng.random() < 0.5 else max(5 * diameter, depth * rng.uniform(0.8, 2.5))
    offset = rng.uniform(-0.35, 0.35, 2) * (size - 3 * diameter) if size < 4 else np.zeros(2)
    if rng.random() < 0.55:
        image = _plain_top(rng)
    elif rng.random() < 0.5:
        image = np.clip(
            pictures.stripes(rng, 256) if rng.random() < 0.4 else pictures.noise(rng, 256), 0, 255
        )
    else:
        image = pictures.picture(rng, stock.photos, 512)
    pose = transform(turn("z", rng.uniform(0, 360)), [*offset, 0], np.array([size, size, 1.0]))
    repeat = max(1.0, round(size / loguniform(rng, 0.15, 2.0)))
    return Body("plane", pose, image[None].astype(np.uint8), repeat=repeat, **material(rng))


def _plain_top(rng: Rng) -> np.ndarray:
    base = np.full(3, rng.uniform(70, 250)) if rng.random() < 0.6 else pictures.colour(rng)
    base = np.clip(base + rng.normal(0, 8, 3), 0, 255)
    grain = rng.normal(0, rng.uniform(0, 6), (128, 128, 1))
    return np.clip(base + grain, 0, 255)


def _background(config: RenderConfig, stock: Stock, rng: Rng) -> np.ndarray:
    width, height = config.width, config.height
    if stock.photos and rng.random() < 0.8:
        return np.ascontiguousarray(pictures.photo_crop(rng, stock.photos, width, height, 0.4))
    image = pictures.picture(rng, stock.photos, 256)
    return cv2.resize(image, (width, height))
