# SPDX-License-Identifier: Apache-2.0
"""The objects' shapes, as ``--mesh`` gives them, and whether an outline lies on edges of the image.

The second needs a mesh, but no truth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ..core.camera import Camera
from ..core.object_model import ObjectModel
from ..core.pose import transform
from ..datasets.faults import DatasetError
from ..datasets.meshes import load_mesh, load_ply_vertices
from ..datasets.shape_check import check_size, check_symmetries, surface_samples
from ..recordings.bags import BagError

REACH = 8  # pixels beside the outline in which the strongest gradient is looked for
ON_EDGE = 2.5  # pixels: an outline point with a gradient this near agrees with the image
FAINT = 4.0  # grey levels per pixel: less is no edge
STEP = 4  # pixels between samples along the outline
# Of the corners as object_model.box_corners orders them.
BOX_FACES = np.array([[0, 1, 3, 2], [4, 5, 7, 6], [0, 1, 5, 4], [2, 3, 7, 6], [0, 2, 6, 4], [1, 3, 7, 5]])
BOX = "box"


@dataclass(frozen=True)
class Silhouette:
    """A mesh whose outline is compared. vertices: (V, 3) metres. faces: (F, 3) or (F, 4) indices."""

    vertices: np.ndarray
    faces: np.ndarray

    @classmethod
    def of_box(cls, model: ObjectModel) -> Silhouette:
        """For an object that fills its box."""
        return cls(model.corners(), BOX_FACES)

    def agreement(self, image: np.ndarray, pose: np.ndarray, camera: Camera) -> tuple[float | None, float]:
        """Compare with an RGB image (H, W, 3): the median distance in pixels from the outline to the
        strongest gradient across it, and the share of the outline with one within ON_EDGE.

        None and 0 where the outline has no edge beside it, or does not lie in the image.
        """
        points, normals = outline(self.mask(pose, camera))
        if not len(points):
            return None, 0.0
        grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (3, 3), 0).astype(np.float32)
        offsets = np.arange(-REACH, REACH + 1, dtype=np.float32)
        places = (points[:, None] + offsets[:, None] * normals[:, None]).astype(np.float32)
        profile = cv2.remap(grey, places[..., 0], places[..., 1], cv2.INTER_LINEAR)
        gradient = np.abs(np.gradient(profile, axis=1))
        shift = np.abs(offsets[np.argmax(gradient * np.exp(-((offsets / 6) ** 2)), axis=1)])
        seen = gradient.max(1) >= FAINT
        median = float(np.median(shift[seen])) if seen.any() else None
        return median, float((seen & (shift <= ON_EDGE)).mean())

    def mask(self, pose: np.ndarray, camera: Camera) -> np.ndarray:
        """The silhouette (H, W) uint8, 255 inside; faces that reach behind the camera are left out."""
        pixels = camera.project(transform(pose, self.vertices))
        mask = np.zeros((camera.height, camera.width), np.uint8)
        near = (np.abs(pixels) < 1e4).all(1)  # OpenCV draws in 32 bit; NaN is behind the camera
        for face in self.faces[near[self.faces].all(1)]:
            cv2.fillConvexPoly(mask, np.round(pixels[face] * 16).astype(np.int32), 255, shift=4)
        return mask


def outline(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return points (N, 2) along a mask's outer contours and unit normals (N, 2), in pixels.

    Where the image's rim cuts the silhouette there is no outline.
    """
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    points, normals = [np.zeros((0, 2))], [np.zeros((0, 2))]
    for contour in contours:
        line = contour[:, 0].astype(float)
        along = np.roll(line, -REACH // 2, 0) - np.roll(line, REACH // 2, 0)
        length = np.linalg.norm(along, axis=1)
        inner = ((line >= REACH) & (line < np.array(mask.shape[::-1]) - REACH)).all(1) & (length > REACH / 4)
        kept = np.flatnonzero(inner)[::STEP]
        points.append(line[kept])
        normals.append(np.c_[-along[kept, 1], along[kept, 0]] / length[kept, None])
    return np.concatenate(points), np.concatenate(normals)


def surfaces(
    meshes: Sequence[str], objects: Mapping[int, ObjectModel], scale: float
) -> tuple[dict[int, np.ndarray], dict[int, Silhouette]]:
    """Points (V, 3) of each object that errors are measured over, its box's corners without a mesh, and the
    shapes of those with one. Raises BagError, DatasetError."""
    points = {key: model.corners() for key, model in objects.items()}
    shapes: dict[int, Silhouette] = {}
    for text in meshes:
        number, _, source = text.rpartition("=")
        keys = [int(number)] if number.isdigit() else list(objects)
        unclear = (number and not number.isdigit()) or (len(keys) > 1 and source != BOX)
        if unclear or not set(keys) <= set(objects):
            known = ", ".join(str(key) for key in objects)
            raise BagError(f"--mesh: wanted ID={source} with an ID of {known}, found {text!r}")
        for key in keys:
            if source == BOX:
                shapes[key] = Silhouette.of_box(objects[key])
            else:
                points[key], shapes[key] = _read(Path(source), scale, objects[key])
    return points, shapes


def _read(path: Path, scale: float, model: ObjectModel) -> tuple[np.ndarray, Silhouette]:
    """Read a mesh and compare it with the bundle's object, whose size has been multiplied by ``scale``."""
    try:
        vertices, faces = load_mesh(path)
        points = load_ply_vertices(path) * scale
        low = model.box_center - model.box_size / 2
        check_size(str(path), points, model.diameter, low, model.box_size)
        check_symmetries(
            str(path),
            surface_samples(vertices[faces] * scale),
            model.diameter,
            model.symmetries[:: -(-len(model.symmetries) // 64)],
        )
    except DatasetError as error:
        raise BagError(f"--mesh: {error}") from error
    return points, Silhouette(vertices * scale, faces)
