# SPDX-License-Identifier: Apache-2.0
"""models_info.json and the lists of test targets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..faults import DatasetError
from ..values import METRES, as_object, nearest_rotation, numbers, read_json


class ContinuousSymmetry(NamedTuple):
    """Any turn about `axis` (3,) unit through `offset` (3,) metres maps the object to itself."""

    axis: np.ndarray
    offset: np.ndarray


@dataclass(frozen=True)
class ModelInfo:
    """Size and symmetries of an object: diameter and box in metres; symmetries_discrete (S, 4, 4) metres, the
    identity first; symmetries_continuous as given. Combining the two is left to the object model."""

    diameter_m: float
    box_min: np.ndarray
    box_size: np.ndarray
    symmetries_discrete: np.ndarray
    symmetries_continuous: tuple[ContinuousSymmetry, ...]


@dataclass(frozen=True)
class BopTarget:
    """What a benchmark asks for: `count` instances of an object in an image."""

    scene_id: int
    image_id: int
    object_id: int
    count: int


def load_models_info(path: Path) -> dict[int, ModelInfo]:
    """models_info.json -> {object id: ModelInfo}, metres."""
    return {
        int(key): _model_info(entry, f"{path}, object {key}")
        for key, entry in as_object(read_json(Path(path)), path).items()
    }


def _model_info(entry: dict, where: str) -> ModelInfo:
    low, size = (
        np.concatenate([numbers(entry, f"{name}_{axis}", 1, where) for axis in "xyz"]) * METRES
        for name in ("min", "size")
    )
    diameter = float(numbers(entry, "diameter", 1, where)[0]) * METRES
    if diameter <= 0 or (size < 0).any():
        raise DatasetError(f"{where}: wanted a positive diameter and size, found {diameter} m and {size} m")
    discrete = [np.eye(4)] + [
        _symmetry(values, f"{where}: symmetries_discrete[{k}]")
        for k, values in enumerate(entry.get("symmetries_discrete", ()))
    ]
    continuous = tuple(
        _continuous(values, f"{where}: symmetries_continuous[{k}]")
        for k, values in enumerate(entry.get("symmetries_continuous", ()))
    )
    return ModelInfo(diameter, low, size, np.stack(discrete), continuous)


def _symmetry(values: Any, where: str) -> np.ndarray:
    matrix = numbers({"matrix": values}, "matrix", 16, where).reshape(4, 4)
    if not np.allclose(matrix[3], [0, 0, 0, 1]):
        raise DatasetError(f"{where}: wanted the last row 0 0 0 1, found {matrix[3]}")
    result = np.eye(4)
    result[:3, :3], result[:3, 3] = nearest_rotation(matrix[:3, :3], where), matrix[:3, 3] * METRES
    return result


def _continuous(values: dict, where: str) -> ContinuousSymmetry:
    axis = numbers(values, "axis", 3, where)
    if np.linalg.norm(axis) < 1e-9:
        raise DatasetError(f"{where}: axis: wanted a direction, found {axis}")
    return ContinuousSymmetry(axis / np.linalg.norm(axis), numbers(values, "offset", 3, where) * METRES)


def load_targets(path: Path) -> tuple[BopTarget, ...]:
    """test_targets_bop19.json and its like."""
    entries = read_json(Path(path))
    if not isinstance(entries, list):
        raise DatasetError(f"{path}: wanted a list of targets, found {type(entries).__name__}")
    names = ("scene_id", "im_id", "obj_id", "inst_count")
    return tuple(
        BopTarget(*(int(numbers(entry, name, 1, f"{path}, entry {k}")[0]) for name in names))
        for k, entry in enumerate(entries)
    )
