# SPDX-License-Identifier: Apache-2.0
"""Object views: each object alone in a small square picture, with coverage, exact depth and its own K.

There is no table, shadow, background or camera effect: these are added where views are pasted on photographs.
World frame: z up, the object's box centre in the origin, metres.

Samples: the buffer has 2 S + 1 samples a side for S pixels, sample k at pixel coordinate (k - 1) / 2. So
every other sample lies on a pixel centre, where depth and label are read. Colour and coverage are the
weighted mean (1 2 1) of three samples in each direction, so that one drawing gives both.
"""

from __future__ import annotations

from dataclasses import dataclass

import moderngl
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial.transform import Rotation

from training.render import pictures, shaders
from training.render.clutter import loguniform, material
from training.render.config import RenderConfig
from training.render.gl import OwnsContext, clip_from_camera, egl_context, uniform
from training.render.labels import InstanceLabel, bounding_box
from training.render.mesh_files import Target, load_targets
from training.render.sampling import looking, scene_lights
from training.render.scene import Light, transform, turn
from training.render.shapes import Mesh

Rng = np.random.Generator
_PICTURE_PX = 128
_ANY_ROTATION_SHARE = 0.1


@dataclass(frozen=True)
class ViewScene:
    """One view as plain numbers: the object, its pose, camera, lights and look; K (3, 3) px of the square."""

    object_id: int
    K: np.ndarray
    T_camera_world: np.ndarray
    T_world_object: np.ndarray
    depth_range: tuple[float, float]
    lights: tuple[Light, ...]
    ambient_up: np.ndarray
    ambient_down: np.ndarray
    specular: float
    shininess: float
    tint: tuple[float, float, float]
    gamma: float
    pictures: np.ndarray | None

    @property
    def T_camera_object(self) -> np.ndarray:
        return self.T_camera_world @ self.T_world_object


@dataclass(frozen=True)
class RenderedView:
    """One finished view: rgba (S, S, 4) uint8, colour not multiplied by alpha, alpha the coverage; depth (S,
    S) float32 m at pixel centres, 0 where the object is not; K (3, 3)."""

    rgba: np.ndarray
    depth: np.ndarray
    K: np.ndarray
    instance: InstanceLabel


class Outline:
    """What a camera needs to frame a mesh: hull (N, 3), box centre (3,), diameter, metres."""

    def __init__(self, mesh: Mesh) -> None:
        low, size = mesh.box
        self.centre, self.diameter = low + size / 2, mesh.diameter
        self.hull = mesh.hull - self.centre


def sample_view(
    config: RenderConfig, outlines: dict[int, Outline], photos: list[np.ndarray], index: int, rng: Rng
) -> ViewScene:
    """Return view number `index`; generators in the same state give the same one."""
    view, ids = config.views, list(outlines)
    object_id = ids[index % len(ids)]
    outline = outlines[object_id]
    T_world_object = _object_pose(config.stand, outline, rng)
    distance = outline.diameter * loguniform(rng, *view.distance_diameters)
    T_camera_world = _camera_pose(config, distance, rng)
    T_camera_object = T_camera_world @ T_world_object
    hull = (outline.hull + outline.centre) @ T_camera_object[:3, :3].T + T_camera_object[:3, 3]
    lights, up, down = scene_lights(rng, np.zeros(3), distance)
    own = config.appearance == "own"
    margin = 0.01 * outline.diameter
    return ViewScene(
        object_id,
        framing(hull, view.view_px, view.fill),
        T_camera_world,
        T_world_object,
        (float(hull[:, 2].min() - margin), float(hull[:, 2].max() + margin)),
        lights,
        up,
        down,
        **material(rng),
        tint=tuple(rng.uniform(0.92, 1.0, 3)),
        gamma=float(rng.uniform(0.6, 1.3)) if own else 1.0,
        pictures=None if own else pictures.face_pictures(rng, photos, _PICTURE_PX),
    )


def _object_pose(stand: str, outline: Outline, rng: Rng) -> np.ndarray:
    """Return T_world_object with its z axis up, or in any rotation; its box centre in the origin."""
    seed = int(rng.integers(2**31))
    fallen = stand == "any" or rng.random() < _ANY_ROTATION_SHARE
    rotation = Rotation.random(random_state=seed).as_matrix() if fallen else np.eye(3)
    return transform(rotation, -rotation @ outline.centre)


def _camera_pose(config: RenderConfig, distance: float, rng: Rng) -> np.ndarray:
    """Return T_camera_world of a camera at `distance` from the origin, which lies at most `off_axis_deg` off
    its axis."""
    view = config.views
    low, high = np.sin(np.radians(view.view_elevation_deg))
    elevation = np.degrees(np.arcsin(rng.uniform(low, high)))
    facing = looking(elevation, rng.uniform(0, 360), rng.normal(0, view.view_roll_deg))
    off_axis, towards = view.off_axis_deg * np.sqrt(rng.random()), rng.uniform(0, 360)
    aside = turn("z", towards) @ turn("x", off_axis) @ turn("z", -towards)
    return transform(aside @ facing, aside @ [0.0, 0.0, distance])


def framing(points: np.ndarray, size_px: int, fill: float) -> np.ndarray:
    """Return K (3, 3) of a square picture that has the box about the points (N, 3; camera frame) in its
    middle, with a longer side of `fill` of the picture."""
    seen = points[:, :2] / points[:, 2:]
    low, high = seen.min(0), seen.max(0)
    focal = fill * size_px / (high - low).max()
    centre = (size_px - 1) / 2 - focal * (low + high) / 2
    return np.array([[focal, 0, centre[0]], [0, focal, centre[1]], [0, 0, 1]])


def is_closed(mesh: Mesh) -> bool:
    """Return whether every part of the surface is closed and its triangles are wound to face outwards, so
    that from outside only triangles that face the camera are seen."""
    corners, index = np.unique(mesh.positions, axis=0, return_inverse=True)
    faces = index.reshape(-1, 3)
    faces = faces[(faces != np.roll(faces, 1, axis=1)).all(1)]
    edges = np.stack([faces, np.roll(faces, -1, axis=1)], -1).reshape(-1, 2)
    there, back = (np.sort(e @ [len(corners), 1]) for e in (edges, edges[:, ::-1]))
    if not np.array_equal(there, back) or (np.diff(there) == 0).any():
        return False
    links = coo_array((np.ones(len(edges)), edges.T), (len(corners), len(corners)))
    parts = connected_components(links, directed=False)[1][faces[:, 0]]
    a, b, c = corners[faces].transpose(1, 0, 2)
    volumes = np.bincount(parts, np.einsum("ij,ij->i", a, np.cross(b, c)))
    return bool((volumes[np.unique(parts)] > 0).all())


class ViewRenderer(OwnsContext):
    """Holds a graphics context, the objects' meshes and one buffer; draws one view at a time."""

    def __init__(self, meshes: dict[int, Mesh], size_px: int) -> None:
        """Raises RuntimeError, saying which packages are needed, where EGL gives no context."""
        self.ctx, self.size, self.side = egl_context(), size_px, 2 * size_px + 1
        try:
            with self.ctx:
                self._fill(meshes)
        except BaseException:
            self.release()
            raise
        self.closed = {i for i, mesh in meshes.items() if is_closed(mesh)}

    def _fill(self, meshes: dict[int, Mesh]) -> None:
        self.ctx.front_face = "cw"  # rows go down in the picture, which mirrors the winding
        self.plain = self._program("ALONE", "PLAIN")
        self.pictured = self._program("ALONE")
        samples = (self.side, self.side)
        self.buffer = self.ctx.framebuffer(
            [self.ctx.renderbuffer(samples, 4)], self.ctx.depth_renderbuffer(samples)
        )
        self.skins = {i: self._skin(m.texture[None]) for i, m in meshes.items() if m.texture is not None}
        self.vertices = {i: self._vertices(mesh) for i, mesh in meshes.items()}

    def _program(self, *names: str) -> moderngl.Program:
        return self.ctx.program(shaders.MESH_VERTEX, shaders.variant(shaders.MESH_FRAGMENT, *names))

    def _vertices(self, mesh: Mesh) -> tuple[moderngl.VertexArray, moderngl.VertexArray]:
        """Return the mesh for the programs without and with pictures."""
        corners = self.ctx.buffer(mesh.interleaved().tobytes())
        bare = ("3f 3f 12x 3f", "in_position", "in_normal", "in_colour")
        full = ("3f 3f 2f 1f 3f", "in_position", "in_normal", "in_uv", "in_layer", "in_colour")
        return (
            self.ctx.vertex_array(self.plain, [(corners, *bare)]),
            self.ctx.vertex_array(self.pictured, [(corners, *full)]),
        )

    def __call__(self, scene: ViewScene) -> tuple[np.ndarray, np.ndarray]:
        """rgba (S, S, 4) uint8 and depth (S, S) float32 metres, as in RenderedView."""
        with self.ctx:
            self.buffer.use()
            self.buffer.clear()
            closed = scene.object_id in self.closed  # its far side is never seen: half the work
            self.ctx.enable_only(moderngl.DEPTH_TEST | (moderngl.CULL_FACE if closed else 0))
            self._draw(scene)
            colour = np.frombuffer(self.buffer.read(components=4, alignment=1), np.uint8)
            depth = self.buffer.read(components=1, attachment=-1, alignment=1, dtype="f4")
        z = np.frombuffer(depth, np.float32).reshape(self.side, self.side)[1::2, 1::2]
        return _resolved(colour.reshape(self.side, self.side, 4)), _metres(z, *scene.depth_range)

    def _draw(self, scene: ViewScene) -> None:
        plain, pictured = self.vertices[scene.object_id]
        if scene.pictures is None and scene.object_id not in self.skins:
            self._set_uniforms(self.plain, scene)
            plain.render()
            return
        skin = self.skins[scene.object_id] if scene.pictures is None else self._skin(scene.pictures)
        self._set_uniforms(self.pictured, scene)
        uniform(self.pictured, "layers").value = float(skin.layers)
        uniform(self.pictured, "repeat").value = 1.0
        skin.use(0)
        pictured.render()
        if scene.pictures is not None:
            skin.release()

    def _set_uniforms(self, program: moderngl.Program, scene: ViewScene) -> None:
        samples = np.array([[2.0, 0, 1], [0, 2, 1], [0, 0, 1]])  # pixel -> sample coordinates
        clip = clip_from_camera(samples @ scene.K, self.side, self.side, depth_range=scene.depth_range)
        lights = scene.lights + (scene.lights[0],) * (3 - len(scene.lights))
        eye = -scene.T_camera_world[:3, :3].T @ scene.T_camera_world[:3, 3]
        for name, matrix in (
            ("clip_world", clip @ scene.T_camera_world),
            ("world_body", scene.T_world_object),
            ("normal_matrix", scene.T_world_object[:3, :3]),
        ):
            uniform(program, name).write(np.ascontiguousarray(matrix.T, np.float32).tobytes())
        for name, value in (
            ("light_position", [tuple(light.position) for light in lights]),
            ("light_colour", [tuple(light.colour) for light in lights]),
            ("lights", len(scene.lights)),
            ("eye", tuple(eye)),
            ("centre", (0.0, 0.0, 0.0)),
            ("ambient_up", tuple(scene.ambient_up)),
            ("ambient_down", tuple(scene.ambient_down)),
            ("specular", scene.specular),
            ("shininess", scene.shininess),
            ("tint", scene.tint),
            ("albedo_gamma", scene.gamma),
        ):
            uniform(program, name).value = value


def _resolved(samples: np.ndarray) -> np.ndarray:
    """(2 S + 1, 2 S + 1, 4) samples, 0 where nothing was drawn -> (S, S, 4) uint8, colour not multiplied."""
    wide = samples.astype(np.uint16).view(np.uint64)[..., 0]  # four channels in one number, none overflows
    rows = wide[0:-2:2] + (wide[1::2] << 1) + wide[2::2]
    total = rows[:, 0:-2:2] + (rows[:, 1::2] << 1) + rows[:, 2::2]  # 16 x the mean
    sums = total[..., None].view(np.uint16)
    result = np.empty(sums.shape, np.uint8)
    scale = np.float32(255) / np.maximum(sums[..., 3], 1)
    for channel in range(3):
        result[..., channel] = sums[..., channel] * scale + np.float32(0.5)
    result[..., 3] = (sums[..., 3] + 8) // 16
    return result


def _metres(z: np.ndarray, near: float, far: float) -> np.ndarray:
    """Depth buffer 0..1 -> metres, 0 where nothing was drawn (the buffer's 1)."""
    depth = near * far / (far - z.astype(np.float64) * (far - near))
    return np.where(z < 1, depth, 0).astype(np.float32)


class ViewMaker:
    """Makes the finished view of a number; owns the renderer of one process. A context manager."""

    def __init__(self, config: RenderConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        targets: list[Target] = load_targets(config)
        self.photos = pictures.load_photographs(config.pictures, config.pictures_split)
        self.outlines = {t.object_id: Outline(t.mesh) for t in targets}
        self.renderer = ViewRenderer({t.object_id: t.mesh for t in targets}, config.views.view_px)

    def __enter__(self) -> ViewMaker:
        return self

    def __exit__(self, *_: object) -> None:
        self.renderer.release()

    def __call__(self, index: int) -> RenderedView:
        rng = np.random.default_rng([self.seed, index])
        scene = sample_view(self.config, self.outlines, self.photos, index, rng)
        rgba, depth = self.renderer(scene)
        return RenderedView(rgba, depth, scene.K, _label(scene, depth > 0))


def _label(scene: ViewScene, mask: np.ndarray) -> InstanceLabel:
    box, pixels = bounding_box(mask), int(mask.sum())
    return InstanceLabel(scene.object_id, scene.T_camera_object, mask, mask, box, box, pixels, pixels, pixels)
