# SPDX-License-Identifier: Apache-2.0
"""A drawn recording: a cube with random pictures on its faces moves smoothly in front of a random background.

OpenCV only.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from standalone.bag_writer import Pinhole

EDGE = 0.084  # metres, as the real recording's cube
FRAME_COUNT = 150
TEXTURE = 256  # pixels along a face's picture
LIGHT = np.array([0.3, -0.6, -0.74])  # direction towards the light, in the camera frame


@dataclass(frozen=True)
class Frame:
    """image: uint8 HxWx3 BGR. pose: T_camera_object 4x4, metres, origin in the cube's centre."""

    image: np.ndarray
    pose: np.ndarray


def draw_frames(camera: Pinhole, count: int = FRAME_COUNT, seed: int = 0) -> Iterator[Frame]:
    """Yields `count` frames of one smooth motion; the same seed gives the same pictures."""
    random = np.random.default_rng(seed)
    background = noise(random, (camera.height, camera.width), cells=6, low=60, high=190)
    # Pale colours, like those of a room.
    background = (0.3 * background + 0.7 * background.mean(2, keepdims=True)).astype(np.uint8)
    textures = [face_picture(random) for _ in range(6)]
    for index in range(count):
        pose = pose_at(index / FRAME_COUNT)
        image = cv2.GaussianBlur(draw_cube(background, textures, camera, pose), (3, 3), 0.7)
        grain = random.normal(0, 2.5, image.shape)
        yield Frame(np.clip(image + grain, 0, 255).astype(np.uint8), pose)


def pose_at(phase: float) -> np.ndarray:
    """Returns T_camera_object of the motion; phase 0..1.

    Between 0.38 m and 0.62 m from the camera, never out of view.
    """
    turn = 2 * np.pi * phase
    pose = np.eye(4)
    pose[:3, :3] = rotation([0, 1, 0], 1.5 * turn) @ rotation([1, 0, 0], 0.65 + 0.35 * np.sin(2 * turn))
    pose[:3, :3] = rotation([1, 0, 0], -0.5) @ pose[:3, :3]
    pose[:3, 3] = 0.08 * np.sin(turn), 0.05 * np.sin(2 * turn + 1), 0.5 + 0.12 * np.sin(turn + 2)
    return pose


def rotation(axis: Sequence[float], angle: float) -> np.ndarray:
    """Returns the 3x3 matrix of a turn by `angle` radians about a unit axis."""
    return cv2.Rodrigues(np.array(axis, float) * angle)[0]


def faces() -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns (corners 4x3 in metres, outward normal) of the six faces; corners in the texture's order."""
    square = np.array([[-1, -1, 1], [1, -1, 1], [1, 1, 1], [-1, 1, 1]], float) * EDGE / 2
    turns = [([0, 1, 0], quarter * np.pi / 2) for quarter in range(4)]
    turns += [([1, 0, 0], np.pi / 2), ([1, 0, 0], -np.pi / 2)]
    matrices = [rotation(axis, angle) for axis, angle in turns]
    return [(square @ matrix.T, matrix @ np.array([0, 0, 1.0])) for matrix in matrices]


def draw_cube(
    background: np.ndarray, textures: list[np.ndarray], camera: Pinhole, pose: np.ndarray
) -> np.ndarray:
    """Returns the background (uint8 HxWx3) with the faces that face the camera warped onto it.

    A cube is convex, so these faces never cover each other and need no order.
    """
    image = background.copy()
    for (corners, normal), texture in zip(faces(), textures):
        points, outward = corners @ pose[:3, :3].T + pose[:3, 3], pose[:3, :3] @ normal
        if points.mean(0) @ outward < 0:
            brightness = 0.55 + 0.45 * max(0.0, float(outward @ LIGHT))
            paint_face(image, texture * brightness, project(camera, points))
    return image


def project(camera: Pinhole, points: np.ndarray) -> np.ndarray:
    """points: Nx3 in the camera frame, metres. Returns Nx2 pixels."""
    return (points @ camera.matrix.T)[:, :2] / points[:, 2:]


def paint_face(image: np.ndarray, texture: np.ndarray, corners: np.ndarray) -> None:
    """Warps one picture (SxSx3) into the quadrilateral `corners` (4x2 pixels) of image, in place."""
    size = len(texture)
    source = np.array([[0, 0], [size, 0], [size, size], [0, size]], np.float32) - 0.5
    matrix = cv2.getPerspectiveTransform(source, corners.astype(np.float32))
    shape = image.shape[1::-1]
    warped = cv2.warpPerspective(texture.astype(np.float32), matrix, shape, flags=cv2.INTER_AREA)
    cover = cv2.warpPerspective(np.ones((size, size), np.float32), matrix, shape)[..., None]
    image[:] = np.round(image * (1 - cover) + warped * cover)


def face_picture(random: np.random.Generator) -> np.ndarray:
    """Returns a random picture, uint8 SxSx3: soft colours, a few shapes, a dark rim."""
    picture = noise(random, (TEXTURE, TEXTURE), cells=4, low=70, high=255)
    for _ in range(7):
        colour = tuple(int(value) for value in random.integers(0, 256, 3))
        centre = tuple(int(value) for value in random.integers(20, TEXTURE - 20, 2))
        axes = tuple(int(value) for value in random.integers(10, 60, 2))
        cv2.ellipse(picture, centre, axes, float(random.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
    cv2.rectangle(picture, (0, 0), (TEXTURE - 1, TEXTURE - 1), (25, 25, 25), 8)
    return picture


def noise(random: np.random.Generator, shape: tuple[int, int], cells: int, low: int, high: int) -> np.ndarray:
    """Returns smooth colour noise, uint8 HxWx3 within low..high. cells: blobs along a side."""
    coarse = random.uniform(low, high, (cells, cells, 3)).astype(np.float32)
    return np.clip(cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC), low, high).astype(np.uint8)
