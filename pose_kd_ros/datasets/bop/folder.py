# SPDX-License-Identifier: Apache-2.0
"""Where things are in a BOP data set's folder, and its objects as the metrics want them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ...core.object_model import ObjectModel, box_corners, expand_symmetries
from ..faults import DatasetError
from ..meshes import load_ply_triangles, load_ply_vertices
from ..shape_check import check_size, check_symmetries, surface_samples, tried_symmetries
from .models import ModelInfo, load_models_info
from .shards import shard_paths

TARGETS = "test_targets_bop19.json"


def find_split(folder: Path) -> Path:
    """The folder itself where it is a split (scene folders or shards), else the only test split in it."""
    folder = Path(folder)
    if _is_split(folder):
        return folder
    splits = sorted(p.name for p in folder.glob("*") if p.is_dir() and _is_split(p))
    tests = [name for name in splits if name.startswith("test")]
    if len(tests) != 1:
        raise DatasetError(f"{folder}: wanted one split test*, found {tests or splits}: name its own folder")
    return folder / tests[0]


def _is_split(folder: Path) -> bool:
    return bool(shard_paths(folder)) or any(p.is_dir() and p.name.isdigit() for p in folder.glob("*"))


def models_folder(split: Path) -> Path:
    """The meshes that figures are computed with: models_eval beside the split, or models."""
    for name in ("models_eval", "models"):
        if (split.parent / name / "models_info.json").is_file():
            return split.parent / name
    place = split.parent / "models_eval"
    raise DatasetError(f"{place}: wanted a models_info.json there, or in models, found none")


def surface_points(split: Path, ids: Iterable[int]) -> dict[int, np.ndarray]:
    """Vertices (V, 3), metres, of the meshes of these objects; DatasetError where models_info.json states
    another size, or a symmetry that a mesh with triangles does not have."""
    infos = load_models_info(models_folder(split) / "models_info.json")
    points: dict[int, np.ndarray] = {}
    for i in ids:
        path = mesh_path(split, i)
        points[i], info = load_ply_vertices(path), infos[i]
        check_size(str(path), points[i], info.diameter_m, info.box_min, info.box_size)
        symmetries = tried_symmetries(info.symmetries_discrete, info.symmetries_continuous)
        if len(symmetries) > 1 and len(triangles := load_ply_triangles(path)):
            surface = surface_samples(points[i][triangles])
            check_symmetries(str(path), surface, info.diameter_m, symmetries)
    return points


def mesh_path(split: Path, object_id: int) -> Path:
    path = models_folder(split) / f"obj_{object_id:06d}.ply"
    if not path.is_file():
        raise DatasetError(f"{path}: no such file: object {object_id} is not in this data set")
    return path


def load_objects(split: Path) -> dict[int, ObjectModel]:
    """The data set's objects by id, continuous symmetries in BOP's steps; keypoints: the box's corners."""
    infos = load_models_info(models_folder(split) / "models_info.json")
    return {i: _object(i, info) for i, info in sorted(infos.items())}


def _object(object_id: int, info: ModelInfo) -> ObjectModel:
    center = info.box_min + info.box_size / 2
    symmetries = expand_symmetries(info.symmetries_discrete, info.symmetries_continuous)
    corners, name = box_corners(center, info.box_size), f"obj_{object_id:06d}"
    return ObjectModel(object_id, name, info.diameter_m, center, info.box_size, corners, symmetries)
