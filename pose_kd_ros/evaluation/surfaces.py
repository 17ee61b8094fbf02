"""What --mesh says of the objects' shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..core.object_model import ObjectModel
from .bags import BagError
from .edges import Silhouette
from .ply import load_ply_vertices

BOX = "box"


def surfaces(
    meshes: Sequence[str], objects: Mapping[int, ObjectModel], scale: float
) -> tuple[dict[int, np.ndarray], dict[int, Silhouette]]:
    """Points (V, 3) of each object that errors are measured over, its box's corners without a mesh, and the
    shapes of those with one. Raises BagError, PlyError."""
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
                from .vsd import load_mesh

                points[key] = load_ply_vertices(Path(source)) * scale
                vertices, faces = load_mesh(Path(source))
                shapes[key] = Silhouette(vertices * scale, faces)
    return points, shapes
