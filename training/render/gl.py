# SPDX-License-Identifier: Apache-2.0
"""Scene -> colour image and exact labels, with moderngl on EGL (Mesa's llvmpipe or a graphics
card, same code).

Convention: pixel centres at integers. A point at camera (0, 0, 1) with cx = 319.5 in a picture 640 wide falls
on the border between pixels 319 and 320: window x = 319.5 + 0.5 = 320. Row 0 of the framebuffer is row 0 of
the image, so nothing is flipped.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import moderngl
import numpy as np

from training.render import shaders
from training.render.scene import Body, Scene, Stock

_NEAR, _FAR = 0.02, 40.0
_SHADOW_SIZE = 1024


@dataclass(frozen=True)
class Labels:
    """instance (H, W) uint8: 0, or the label of the target seen there; depth (H, W) float32 metres,
    0 for none."""

    instance: np.ndarray
    depth: np.ndarray


def egl_context() -> moderngl.Context:
    """A graphics context without a window. Raises RuntimeError, saying which packages are needed, where
    EGL gives none."""
    try:
        return moderngl.create_standalone_context(require=330, backend="egl")  # type: ignore[arg-type]  # typed as dicts
    except Exception as error:
        raise RuntimeError(
            f"wanted OpenGL 3.3 through EGL, found {error}; Debian: apt install libegl1 libgl1-mesa-dri"
        ) from error


def clip_from_camera(
    K: np.ndarray,
    width: int,
    height: int,
    shift: tuple[float, float] = (0.0, 0.0),
    depth_range: tuple[float, float] = (_NEAR, _FAR),
) -> np.ndarray:
    """(4, 4) OpenCV camera coordinates -> OpenGL clip coordinates for a width x height buffer.

    `shift` moves the picture's origin by that many pixels inside the buffer. Clip w is the depth z.
    """
    near, far = depth_range
    clip = np.zeros((4, 4))
    clip[0, :3] = 2 / width * (K[0] + np.array([0, 0, 0.5 + shift[0]])) - [0, 0, 1]
    clip[1, :3] = 2 / height * (K[1] + np.array([0, 0, 0.5 + shift[1]])) - [0, 0, 1]
    clip[2, 2:] = (far + near) / (far - near), -2 * far * near / (far - near)
    clip[3, 2] = 1
    return clip


def window_about(corners: np.ndarray, clip: np.ndarray, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return (x, y, width, height) of the part of a buffer of `size` (width, height) that shows what lies
    between the corners (8, 3), one pixel larger on each side; the whole buffer if a corner is near the camera
    or behind it."""
    at = np.column_stack([corners, np.ones(len(corners))]) @ clip.T
    if at[:, 3].min() < _NEAR:
        return 0, 0, *size
    pixels = (at[:, :2] / at[:, 3:] + 1) / 2 * size
    low = np.clip(np.floor(pixels.min(0)) - 1, 0, size).astype(int)
    high = np.clip(np.ceil(pixels.max(0)) + 1, 0, size).astype(int)
    return int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1])


def look_at_scene(direction: np.ndarray, centre: np.ndarray, radius: float) -> np.ndarray:
    """(4, 4) world -> clip of a parallel view along -direction onto a ball of `radius` metres around
    `centre`."""
    z = -direction / np.linalg.norm(direction)
    x = np.cross(z, [0, 0, 1.0] if abs(z[2]) < 0.9 else [0, 1.0, 0])
    x /= np.linalg.norm(x)
    rotation = np.stack([x, np.cross(z, x), z])
    clip = np.eye(4)
    clip[:3, :3] = rotation / radius
    clip[:3, 3] = -clip[:3, :3] @ centre
    clip[2] *= [0.5, 0.5, 0.5, 0.5]  # twice as deep as wide
    return clip


def uniform(program: moderngl.Program, name: str) -> moderngl.Uniform:
    """Return a uniform variable of a shader program."""
    member = program[name]
    assert isinstance(member, moderngl.Uniform)
    return member


class OwnsContext:
    """Holds the graphics context ``ctx``, and with it every buffer, texture and shader in it.

    A context manager. The garbage collector does not free a context: one that is not released stays until the
    process ends (with llvmpipe 20 MB and 50 memory maps). A process has one current context. Each call makes
    its own context current, so several may live side by side in one thread.
    """

    ctx: moderngl.Context

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Ends the graphics context and all that is in it."""
        self.ctx.release()

    def _skin(self, images: np.ndarray) -> moderngl.TextureArray:
        layers, height, width, _ = images.shape
        skin = self.ctx.texture_array((width, height, layers), 3, np.ascontiguousarray(images), alignment=1)
        skin.build_mipmaps()
        skin.filter = (moderngl.LINEAR_MIPMAP_LINEAR, moderngl.LINEAR)
        return skin


class Renderer(OwnsContext):
    """Holds a graphics context, the meshes and the buffers; every call draws one whole scene."""

    def __init__(self, stock: Stock, width: int, height: int, samples: int = 4, shadows: bool = True) -> None:
        """Raises RuntimeError, saying which packages are needed, where EGL gives no context."""
        self.ctx = egl_context()
        self.width, self.height, self.shadows = width, height, shadows
        try:
            with self.ctx:
                self._programs()
                self._buffers(min(samples, self.ctx.max_samples))
                self._meshes(stock)
        except BaseException:
            self.release()
            raise

    def _programs(self) -> None:
        ctx = self.ctx
        self.mesh = ctx.program(shaders.MESH_VERTEX, shaders.MESH_FRAGMENT)
        self.label = ctx.program(shaders.LABEL_VERTEX, shaders.LABEL_FRAGMENT)
        self.occlude = ctx.program(shaders.LABEL_VERTEX, shaders.DEPTH_ONLY_FRAGMENT)
        self.backdrop = ctx.program(shaders.BACKGROUND_VERTEX, shaders.BACKGROUND_FRAGMENT)
        uniform(self.mesh, "shadow_map").value, uniform(self.mesh, "skin").value = 1, 0

    def _buffers(self, samples: int) -> None:
        ctx, size = self.ctx, (self.width, self.height)
        self.colour = ctx.framebuffer([ctx.renderbuffer(size, 3)], ctx.depth_renderbuffer(size))
        self.smooth = (
            ctx.framebuffer(
                [ctx.renderbuffer(size, 3, samples=samples)], ctx.depth_renderbuffer(size, samples=samples)
            )
            if samples > 1
            else self.colour
        )
        self.labels_fbo = self._label_buffer(size)
        self.large_fbo = self._label_buffer((3 * self.width, 3 * self.height))
        self.shadow_map = ctx.depth_texture((_SHADOW_SIZE, _SHADOW_SIZE))
        self.shadow_map.compare_func = "<="
        self.shadow_map.repeat_x = self.shadow_map.repeat_y = False
        self.shadow_fbo = ctx.framebuffer(depth_attachment=self.shadow_map)
        corners = np.array([-1, -1, 3, -1, -1, 3], np.float32)
        self.backdrop_vao = ctx.vertex_array(self.backdrop, [(ctx.buffer(corners), "2f", "in_corner")])

    def _label_buffer(self, size: tuple[int, int]) -> moderngl.Framebuffer:
        return self.ctx.framebuffer(
            [self.ctx.texture(size, 2, dtype="f4")], self.ctx.depth_renderbuffer(size)
        )

    def _meshes(self, stock: Stock) -> None:
        self.vaos, self.own_skins, self.corners = {}, {}, {}
        for name, mesh in stock.meshes.items():
            low, size = mesh.box
            self.corners[name] = low + size * list(itertools.product((0, 1), repeat=3))
            buffer = self.ctx.buffer(mesh.interleaved().tobytes())
            full = ("3f 3f 2f 1f 3f", "in_position", "in_normal", "in_uv", "in_layer", "in_colour")
            self.vaos[name] = {"mesh": self.ctx.vertex_array(self.mesh, [(buffer, *full)])}
            for kind, program in (("label", self.label), ("occlude", self.occlude)):
                self.vaos[name][kind] = self.ctx.vertex_array(program, [(buffer, "3f 36x", "in_position")])
            texture = np.full((1, 1, 3), 255, np.uint8) if mesh.texture is None else mesh.texture
            self.own_skins[name] = self._skin(texture[None])

    # ---------------------------------------------------------------- labels

    def labels(self, scene: Scene) -> Labels:
        """Return which target each pixel shows and at which depth; exact at pixel centres, without
        antialiasing."""
        clip = clip_from_camera(scene.K, self.width, self.height) @ scene.T_camera_world
        everything = scene.bodies + ((scene.table,) if scene.table else ())
        with self.ctx:
            read = self._draw_labels(self.labels_fbo, clip, everything, (0, 0, self.width, self.height))
        return Labels(read[..., 0].astype(np.uint8), read[..., 1])

    def alone(self, scene: Scene, body: Body) -> np.ndarray:
        """Return the mask (H, W) bool of the body as it would be seen without the rest of the scene."""
        clip = clip_from_camera(scene.K, self.width, self.height) @ scene.T_camera_world
        part, (x, y) = self._alone(self.labels_fbo, clip, body)
        mask = np.zeros((self.height, self.width), bool)
        mask[y : y + part.shape[0], x : x + part.shape[1]] = part
        return mask

    def silhouette(self, scene: Scene, body: Body) -> tuple[np.ndarray, tuple[int, int]]:
        """Return the mask (bool) of the body alone, with what lies outside the picture by up to one picture
        on each side; and the place (column, row) of the picture's first pixel in it."""
        shift = (float(self.width), float(self.height))
        clip = clip_from_camera(scene.K, 3 * self.width, 3 * self.height, shift) @ scene.T_camera_world
        part, (x, y) = self._alone(self.large_fbo, clip, body)
        return part, (self.width - x, self.height - y)

    def _alone(
        self, target: moderngl.Framebuffer, clip: np.ndarray, body: Body
    ) -> tuple[np.ndarray, tuple[int, int]]:
        """Return the window of the buffer that holds the body, bool, and the window's place in it."""
        window = window_about(self.corners[body.mesh], clip @ body.T_world_body, target.size)
        x, y, width, height = window
        if not width or not height:
            return np.zeros((height, width), bool), (x, y)
        with self.ctx:
            return self._draw_labels(target, clip, (body,), window)[..., 0] > 0, (x, y)

    def _draw_labels(
        self,
        target: moderngl.Framebuffer,
        clip: np.ndarray,
        bodies: tuple[Body, ...],
        window: tuple[int, int, int, int],
    ) -> np.ndarray:
        """(height, width, 2) float32 of the window (x, y, width, height): label and depth."""
        target.use()
        target.clear(viewport=window)
        self.ctx.enable_only(moderngl.DEPTH_TEST)
        self._set(self.label, "clip_world", clip)
        for body in bodies:
            self._set(self.label, "world_body", body.T_world_body)
            uniform(self.label, "label").value = float(body.label)
            self.vaos[body.mesh]["label"].render()
        read = target.read(viewport=window, components=2, dtype="f4")
        return np.frombuffer(read, np.float32).reshape(window[3], window[2], 2)

    # ---------------------------------------------------------------- colour

    def image(self, scene: Scene) -> np.ndarray:
        """Return the picture (H, W, 3) uint8 RGB, antialiased."""
        with self.ctx:
            return self._draw_image(scene)

    def _draw_image(self, scene: Scene) -> np.ndarray:
        self.ctx.enable_only(moderngl.DEPTH_TEST)
        drawn = scene.bodies + ((scene.table,) if scene.table else ())
        skins = [self.own_skins[b.mesh] if b.pictures is None else self._skin(b.pictures) for b in drawn]
        self._draw_shadows(scene)
        self.smooth.use()
        self.smooth.clear()
        self._set_light(scene)
        clip = clip_from_camera(scene.K, self.width, self.height) @ scene.T_camera_world
        self._set(self.mesh, "clip_world", clip)
        for body, skin in zip(drawn, skins):
            self._draw(body, skin, body is scene.table)
        self._draw_backdrop(scene)
        if self.smooth is not self.colour:
            self.ctx.copy_framebuffer(self.colour, self.smooth)
        read = np.frombuffer(self.colour.read(components=3, alignment=1), np.uint8)
        for body, skin in zip(drawn, skins):
            if body.pictures is not None:
                skin.release()
        return read.reshape(self.height, self.width, 3)

    def _draw_shadows(self, scene: Scene) -> None:
        position = scene.lights[0].position
        direction = position[:3] - position[3] * scene.centre
        self.light_clip = look_at_scene(direction, scene.centre, scene.shadow_radius)
        if not self.shadows:
            return
        self.shadow_fbo.use()
        self.shadow_fbo.clear()
        self._set(self.occlude, "clip_world", self.light_clip)
        for body in (b for b in scene.bodies if b.casts_shadow):
            self._set(self.occlude, "world_body", body.T_world_body)
            self.vaos[body.mesh]["occlude"].render()

    def _draw_backdrop(self, scene: Scene) -> None:
        height, width, _ = scene.background.shape
        texture = self.ctx.texture((width, height), 3, np.ascontiguousarray(scene.background), alignment=1)
        texture.use(0)
        uniform(self.backdrop, "brightness").value = 1.0
        self.backdrop_vao.render()
        texture.release()

    def _set_light(self, scene: Scene) -> None:
        program = self.mesh
        lights = scene.lights + (scene.lights[0],) * (3 - len(scene.lights))
        uniform(program, "light_position").value = [tuple(light.position) for light in lights]
        uniform(program, "light_colour").value = [tuple(light.colour) for light in lights]
        eye = -scene.T_camera_world[:3, :3].T @ scene.T_camera_world[:3, 3]
        for name, value in (
            ("eye", eye),
            ("centre", scene.centre),
            ("ambient_up", scene.ambient_up),
            ("ambient_down", scene.ambient_down),
        ):
            uniform(program, name).value = tuple(value)
        feet = [b.footprint for b in scene.bodies if b.footprint][:10]
        padded = feet + [(0.0,) * 5] * (10 - len(feet))
        uniform(program, "feet").value = [(x, y, w, h) for x, y, _, w, h in padded]
        uniform(program, "feet_turn").value = [(np.cos(yaw), np.sin(yaw)) for _, _, yaw, _, _ in padded]
        reach = 0.2 * scene.shadow_radius / 3
        for name, value in (
            ("lights", len(scene.lights)),
            ("softness", scene.shadow_softness),
            ("shadows", int(self.shadows)),
            ("has_table", int(scene.table is not None)),
            ("contact", scene.contact),
            ("contact_reach", reach),
            ("feet_count", len(feet)),
        ):
            uniform(program, name).value = value
        self._set(program, "light_clip", self.light_clip)
        self.shadow_map.use(1)

    def _draw(self, body: Body, skin: moderngl.TextureArray, is_table: bool) -> None:
        program = self.mesh
        skin.use(0)
        self._set(program, "world_body", body.T_world_body)
        normal = np.linalg.inv(body.T_world_body[:3, :3])  # inverse transposed, written column by column
        uniform(program, "normal_matrix").write(np.ascontiguousarray(normal, np.float32).tobytes())
        for name, value in (
            ("layers", float(skin.layers)),
            ("repeat", body.repeat),
            ("tint", body.tint),
            ("specular", body.specular),
            ("shininess", body.shininess),
            ("is_table", int(is_table)),
        ):
            uniform(program, name).value = value
        self.vaos[body.mesh]["mesh"].render()

    @staticmethod
    def _set(program: moderngl.Program, name: str, matrix: np.ndarray) -> None:
        uniform(program, name).write(np.ascontiguousarray(matrix.T, np.float32).tobytes())
