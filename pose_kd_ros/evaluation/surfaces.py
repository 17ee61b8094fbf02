"""What --mesh says of the objects' shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..core.object_model import ObjectModel
from ..datasets.faults import DatasetError
from ..datasets.meshes import load_ply_vertices
from ..recordings.bags import BagError
from .edges import Silhouette

BOX = "box"


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
                points[key], shapes[key] = _read(Path(source), scale)
    return points, shapes


def _read(path: Path, scale: float) -> tuple[np.ndarray, Silhouette]:
    from .vsd import load_mesh  # needs open3d, which nobody else here does

    try:
        vertices, faces = load_mesh(path)
    except DatasetError as error:
        raise BagError(f"--mesh: {error}") from error
    return load_ply_vertices(path) * scale, Silhouette(vertices * scale, faces)
