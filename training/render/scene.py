"""A random scene as plain numbers: what lies where, under which light, seen by which camera.

World frame: z up, table top in z = 0, metres. Camera frame: OpenCV (z forward, y down).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.spatial.transform import Rotation

from training.render import pictures
from training.render.config import RenderConfig
from training.render.shapes import Mesh

Rng = np.random.Generator
TARGET = "target"


@dataclass(frozen=True)
class Body:
    """One thing in the scene: `mesh` names it, T_world_body (4, 4) may hold a scale (targets: rigid).

    `pictures` (L, S, S, 3) uint8 replaces the mesh's own look. `footprint` (x, y, yaw, half length, half width) in
    metres where it stands on the table and darkens it. `label` is 0, or 1, 2, ... for targets.
    """

    mesh: str
    T_world_body: np.ndarray
    pictures: np.ndarray | None = None
    label: int = 0
    occluder: bool = False
    casts_shadow: bool = True
    specular: float = 0.0
    shininess: float = 20.0
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    repeat: float = 1.0
    footprint: tuple[float, float, float, float, float] | None = None


@dataclass(frozen=True)
class Light:
    """Directional (w = 0) or point (w = 1) light at `position` (4,) in the world; colour (3,) as it arrives at
    the scene's centre. The first light of a scene casts the shadows."""

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
    """What scenes are made from: meshes by name (the target under TARGET), photographs, names of user distractors."""

    meshes: dict[str, Mesh]
    photos: list[np.ndarray]
    user_distractors: tuple[str, ...]
    resting: np.ndarray
    """(N, 3, 3) rotations in which the target rests on the table."""


def loguniform(rng: Rng, low: float, high: float) -> float:
    """Uniform in the logarithm between two positive numbers."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def transform(rotation: np.ndarray, translation: np.ndarray, scale: np.ndarray | float = 1.0) -> np.ndarray:
    """(4, 4) matrix that scales, then rotates, then translates."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * scale
    matrix[:3, 3] = translation
    return matrix


def turn(axis: str, degrees: float) -> np.ndarray:
    """(3, 3) rotation about a coordinate axis."""
    return Rotation.from_euler(axis, degrees, degrees=True).as_matrix()


def resting_rotations(mesh: Mesh) -> np.ndarray:
    """Rotations (N, 3, 3), N = 24 drawn by footprint area, that put a face of the convex hull flat on the table."""
    from scipy.spatial import ConvexHull

    hull = ConvexHull(np.unique(mesh.positions, axis=0))
    corners = hull.points[hull.simplices]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    picks = np.random.default_rng(0).choice(len(area), 24, p=area / area.sum())
    return np.stack([Rotation.align_vectors([[0, 0, -1.0]], [hull.equations[k, :3]])[0].as_matrix() for k in picks])


def sample_scene(config: RenderConfig, stock: Stock, rng: Rng) -> Scene:
    """A random scene; equal generators give equal scenes."""
    on_table = rng.random() < config.table_probability
    target = stock.meshes[TARGET]
    K = _camera_matrix(config, rng)
    depth = K[0, 0] * 0.8 * target.diameter / loguniform(rng, *config.size_px)
    first = _target_pose(stock, rng, on_table)
    T_camera_world = _camera_pose(config, rng, K, depth, first[:3, 3], on_table)
    bodies = _targets(config, stock, rng, first, on_table)
    view = _View(config, K, T_camera_world, depth, on_table)
    bodies += _clutter(stock, rng, view, bodies, int(rng.integers(config.max_distractors + 1)), first[:3, 3])
    if rng.random() < config.occluder_probability:
        bodies += [_occluder(stock, rng, view, first[:3, 3], target.diameter)]
    lights, up, down = _lights(rng, first[:3, 3], depth)
    return Scene(tuple(bodies), lights, up, down, K, T_camera_world, _background(config, stock, rng),
                 first[:3, 3], max(3 * target.diameter, min(0.8 * depth, 1.2)), loguniform(rng, 0.5, 6.0),
                 float(rng.uniform(0.2, 0.9)), _table(stock, rng, depth, target.diameter) if on_table else None)


def _camera_matrix(config: RenderConfig, rng: Rng) -> np.ndarray:
    focal = rng.uniform(*config.focal_px)
    shift = rng.uniform(-config.principal_jitter_px, config.principal_jitter_px, 2)
    centre = np.array([config.width - 1, config.height - 1]) / 2 + shift
    return np.array([[focal, 0, centre[0]], [0, focal * rng.uniform(0.99, 1.01), centre[1]], [0, 0, 1]])


def _target_pose(stock: Stock, rng: Rng, on_table: bool) -> np.ndarray:
    if not on_table:
        return transform(Rotation.random(random_state=int(rng.integers(2**31))).as_matrix(), np.zeros(3))
    rotation = turn("z", rng.uniform(0, 360)) @ stock.resting[rng.integers(len(stock.resting))]
    return transform(rotation, [0, 0, -(stock.meshes[TARGET].positions @ rotation.T)[:, 2].min()])


def _camera_pose(config: RenderConfig, rng: Rng, K: np.ndarray, depth: float, centre: np.ndarray,
                 on_table: bool) -> np.ndarray:
    """T_camera_world with `centre` at the given depth somewhere in the picture and the camera above the table."""
    for _ in range(50):
        pixel = rng.uniform([0.06, 0.06], [0.94, 0.94]) * [config.width, config.height]
        in_camera = depth * np.linalg.solve(K, [*pixel, 1.0])
        elevation = rng.uniform(*config.elevation_deg)
        rotation = _looking(elevation, rng.uniform(0, 360), rng.uniform(-config.roll_deg, config.roll_deg))
        T_camera_world = transform(rotation, in_camera - rotation @ centre)
        height = -(rotation.T @ T_camera_world[:3, 3])[2]
        if not on_table or height > depth * np.sin(np.radians(config.elevation_deg[0])):
            break
    return T_camera_world


def _looking(elevation: float, azimuth: float, roll: float) -> np.ndarray:
    """R_camera_world of a camera that looks down by `elevation` degrees."""
    level = np.array([[1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]])  # x right, y down, z = world y
    return turn("z", roll) @ turn("x", elevation) @ level @ turn("z", azimuth)


def _targets(config: RenderConfig, stock: Stock, rng: Rng, first: np.ndarray, on_table: bool) -> list[Body]:
    kind = rng.random()
    if kind < config.empty_probability:
        return []
    poses = [first]
    if kind < config.empty_probability + config.second_probability:
        poses.append(_second_pose(stock, rng, first, on_table))
    return [_target(config, stock, rng, pose, label, on_table) for label, pose in enumerate(poses, 1)]


def _second_pose(stock: Stock, rng: Rng, first: np.ndarray, on_table: bool) -> np.ndarray:
    mesh = stock.meshes[TARGET]
    if rng.random() < 0.5:  # side by side, touching or nearly
        side = rng.integers(3)
        step = first[:3, side] * (mesh.box[1][side] + rng.choice([0.0, 0.002, 0.01])) * rng.choice([-1, 1])
        if not on_table or abs(step[2]) < 1e-6 or step[2] > 0:
            return transform(first[:3, :3], first[:3, 3] + step)
    pose = _target_pose(stock, rng, on_table)
    if on_table:
        angle = rng.uniform(0, 2 * np.pi)
        direction = np.array([np.cos(angle), np.sin(angle), 0])
    else:
        direction = rng.normal(size=3)
        direction /= np.linalg.norm(direction)
    pose[:2, 3] += first[:2, 3]
    pose[:3, 3] += direction * mesh.diameter * rng.uniform(1.0, 2.5)
    return pose


def _target(config: RenderConfig, stock: Stock, rng: Rng, pose: np.ndarray, label: int, on_table: bool) -> Body:
    images = pictures.face_pictures(rng, stock.photos, 256) if config.appearance == "random" else None
    mesh = stock.meshes[TARGET]
    foot = _footprint(pose, mesh) if on_table else None
    return Body(TARGET, pose, images, label, footprint=foot, **_material(rng))


def _footprint(pose: np.ndarray, mesh: Mesh) -> tuple[float, float, float, float, float] | None:
    """Smallest-area rectangle under a body: exact for boxes on a face."""
    import cv2

    points = mesh.positions[:: max(1, len(mesh.positions) // 500)] @ pose[:3, :3].T + pose[:3, 3]
    if points[:, 2].min() > 0.01:
        return None
    (x, y), (w, h), angle = cv2.minAreaRect(points[:, :2].astype(np.float32))
    return x, y, float(np.radians(angle)), w / 2, h / 2


def _material(rng: Rng) -> dict[str, float]:
    shiny = rng.random() < 0.4
    return {"specular": float(rng.uniform(0.05, 0.6)) if shiny else 0.0, "shininess": loguniform(rng, 5, 80)}


@dataclass(frozen=True)
class _View:
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


def _clutter(stock: Stock, rng: Rng, view: _View, targets: list[Body], count: int, centre: np.ndarray) -> list[Body]:
    diameter = stock.meshes[TARGET].diameter
    taken = [(b.T_world_body[:3, 3], diameter * 0.4) for b in targets]
    found = _sheets(stock, rng, view, diameter) if view.on_table and rng.random() < 0.35 else []
    for _ in range(count):
        pixel = rng.uniform([-0.05, -0.05], [1.05, 1.05]) * [view.config.width, view.config.height]
        body = _distractor(stock, rng, diameter * loguniform(rng, 0.25, 2.5))
        radius = _radius(stock.meshes[body.mesh], body)
        if view.on_table:
            at = view.ground(pixel)
        else:
            at = view.point(pixel, view.depth * rng.uniform(0.7, 2.5))
        if at is None or any(np.linalg.norm((at - p)[:2 + (not view.on_table)]) < 0.75 * (radius + r)
                             for p, r in taken):
            continue
        taken.append((at, radius))
        found.append(_placed(stock, body, at, view.on_table))
    return found


def _radius(mesh: Mesh, body: Body) -> float:
    low, size = mesh.box
    return float(np.linalg.norm(body.T_world_body[:3, :3] @ size) / 2)


def _placed(stock: Stock, body: Body, at: np.ndarray, on_table: bool) -> Body:
    mesh, pose = stock.meshes[body.mesh], body.T_world_body.copy()
    pose[:3, 3] = at
    if on_table:
        pose[2, 3] = -(mesh.positions @ pose[:3, :3].T)[:, 2].min()
    return _with(body, T_world_body=pose, footprint=_footprint(pose, mesh) if on_table else None)


def _with(body: Body, **changes: object) -> Body:
    import dataclasses

    return dataclasses.replace(body, **changes)


_SHAPES = ("box", "box", "box", "cylinder", "cylinder", "cone", "sphere", "capsule", "torus", "ring",
           "blob0", "blob1", "blob2", "blob3")


def _distractor(stock: Stock, rng: Rng, size: float) -> Body:
    """A thing of about `size` metres at the origin: lying or standing, never a cube."""
    if stock.user_distractors and rng.random() < 0.35:
        name = stock.user_distractors[rng.integers(len(stock.user_distractors))]
        rotation = _lying(rng)
        images = pictures.face_pictures(rng, stock.photos, 128) if rng.random() < 0.2 else None
        return Body(name, transform(rotation, np.zeros(3)), images, **_material(rng))
    name = _SHAPES[rng.integers(len(_SHAPES))]
    scale = size * _aspect(rng, name)
    images = pictures.face_pictures(rng, stock.photos, 128, 6 if name == "box" else 1)
    return Body(name, transform(_lying(rng), np.zeros(3), scale), images, **_material(rng))


def _lying(rng: Rng) -> np.ndarray:
    upright = turn("z", rng.uniform(0, 360))
    if rng.random() < 0.6:
        return upright
    return upright @ turn("x", 90) if rng.random() < 0.5 else Rotation.random(
        random_state=int(rng.integers(2**31))).as_matrix()


def _aspect(rng: Rng, name: str) -> np.ndarray:
    """Scale (3,): a box is always clearly longer one way than another."""
    if name == "box":
        sides = np.array([1.0, loguniform(rng, 0.15, 1.0), loguniform(rng, 0.03, 0.7)])
        return rng.permutation(sides)
    if name in ("cylinder", "cone"):
        return np.array([1.0, 1.0, loguniform(rng, 0.2, 5.0)]) * 0.7
    return np.array([1.0, rng.uniform(0.7, 1.0), rng.uniform(0.7, 1.0)])


def _sheets(stock: Stock, rng: Rng, view: _View, diameter: float) -> list[Body]:
    """Paper, books, mats: flat things that may lie under the target."""
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


def _occluder(stock: Stock, rng: Rng, view: _View, centre: np.ndarray, diameter: float) -> Body:
    """A thing that hangs between camera and target, off to one side of it."""
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
    return _with(body, T_world_body=pose, occluder=True)


def _lights(rng: Rng, centre: np.ndarray, depth: float) -> tuple[tuple[Light, ...], np.ndarray, np.ndarray]:
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
    """The table top: endless, or a desk with edges in sight; mostly plain, else wood, print or a photograph."""
    size = rng.uniform(4, 12) if rng.random() < 0.5 else max(5 * diameter, depth * rng.uniform(0.8, 2.5))
    offset = rng.uniform(-0.35, 0.35, 2) * (size - 3 * diameter) if size < 4 else np.zeros(2)
    if rng.random() < 0.55:
        image = _plain_top(rng)
    elif rng.random() < 0.5:
        image = np.clip(pictures.stripes(rng, 256) if rng.random() < 0.4 else pictures.noise(rng, 256), 0, 255)
    else:
        image = pictures.picture(rng, stock.photos, 512)
    pose = transform(turn("z", rng.uniform(0, 360)), [*offset, 0], np.array([size, size, 1.0]))
    repeat = max(1.0, round(size / loguniform(rng, 0.15, 2.0)))
    return Body("plane", pose, image[None].astype(np.uint8), repeat=repeat, **_material(rng))


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
    import cv2

    return cv2.resize(image, (width, height))
