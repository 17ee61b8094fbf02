# SPDX-License-Identifier: Apache-2.0
"""Object models of a BOP data set, from its models_info.json, as the network and the node need them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from pose_kd_ros.core.object_model import ObjectModel, box_corners, expand_symmetries
from pose_kd_ros.core.pose import from_rotation_vector
from pose_kd_ros.datasets.bop import load_models_info
from pose_kd_ros.datasets.meshes import load_ply_vertices

# Largest number of representatives of a symmetric object near a boundary; fewer occur.
MAX_TIED = 8
Keypoints = Literal["corners", "corners+centre", "farthest"]

# A camera 45 degrees above the object's xy plane: most views of a standing object lie well inside the region
# nearest to it, far from the boundaries where a symmetric object's representative changes.
SEEN_FROM_ABOVE = from_rotation_vector((2.356194490192345, 0.0, 0.0))


def load_objects(
    root: Path,
    names: dict[int, str] | None = None,
    only: Sequence[int] = (),
    keypoints: Keypoints = "corners",
    count: int = 8,
) -> list[ObjectModel]:
    """Return the models of ``root``/models/models_info.json, ordered by id.

    only: ids to keep, all if empty; ValueError for one that is not there. keypoints: the box's 8 corners,
    these and its centre, or ``count`` points of the mesh that are far from each other; ValueError where
    ``count`` is another number.
    """
    path = Path(root) / "models" / "models_info.json"
    infos = load_models_info(path)
    missing = sorted(set(only) - set(infos))
    if missing:
        raise ValueError(f"{path}: wanted objects {missing}, found {sorted(infos)}")
    infos = {i: info for i, info in infos.items() if not only or i in only}
    models = [_object(i, info, (names or {}).get(i, f"obj_{i:06d}")) for i, info in sorted(infos.items())]
    return [replace(m, keypoints=_keypoints(m, Path(root) / "models", keypoints, count)) for m in models]


def _keypoints(model: ObjectModel, folder: Path, kind: Keypoints, count: int) -> np.ndarray:
    if kind == "farthest":
        return farthest_points(load_ply_vertices(folder / f"obj_{model.id:06d}.ply"), count)
    points = box_corners(model.box_center, model.box_size)
    if kind == "corners+centre":
        points = np.concatenate([points, np.reshape(model.box_center, (1, 3))])
    if len(points) != count:
        raise ValueError(f"network.keypoints: wanted {len(points)} for keypoints {kind!r}, found {count}")
    return points


def farthest_points(vertices: np.ndarray, count: int) -> np.ndarray:
    """``count`` of the vertices (V, 3): each the farthest from those before it, the first from their mean."""
    chosen: list[int] = []
    nearest = np.full(len(vertices), np.inf)
    start = vertices.mean(0)
    for _ in range(count):
        index = int(np.argmax(((vertices - start) ** 2).sum(1) if not chosen else nearest))
        chosen.append(index)
        nearest = np.minimum(nearest, ((vertices - vertices[index]) ** 2).sum(1))
    return vertices[chosen]


def _object(object_id: int, info, name: str) -> ObjectModel:
    center = info.box_min + info.box_size / 2
    symmetries = expand_symmetries(info.symmetries_discrete, info.symmetries_continuous)
    return ObjectModel(
        object_id,
        name,
        info.diameter_m,
        center,
        info.box_size,
        box_corners(center, info.box_size),
        symmetries,
        SEEN_FROM_ABOVE,
    )
