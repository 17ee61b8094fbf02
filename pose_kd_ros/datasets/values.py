# SPDX-License-Identifier: Apache-2.0
"""Values of json files, checked at the door: every error names the file, the entry and the field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from .faults import DatasetError

METRES = 1e-3  # BOP files hold millimetres
_ROTATION_TOLERANCE = 1e-2


def parsed(data: bytes, where: object) -> Any:
    """JSON text -> values; DatasetError where it is none."""
    try:
        return json.loads(data)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DatasetError(f"{where}: not valid JSON: {error}") from error


def read_json(path: Path) -> Any:
    try:
        return parsed(Path(path).read_bytes(), path)
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file") from None


def as_object(found: Any, where: object) -> dict:
    if not isinstance(found, dict):
        raise DatasetError(f"{where}: wanted an object with one entry a number, found {type(found).__name__}")
    return found


def as_list(found: Any, where: object) -> list:
    if not isinstance(found, list):
        raise DatasetError(f"{where}: wanted a list, found {type(found).__name__}")
    return found


def field(entry: Any, name: str, where: object) -> Any:
    if not isinstance(entry, dict) or name not in entry:
        raise DatasetError(f"{where}: {name} is missing")
    return entry[name]


def numbers(entry: Any, name: str, count: int, where: object) -> np.ndarray:
    """The field's ``count`` finite numbers, (count,) float64."""
    value = field(entry, name, where)
    try:
        found = np.array(value, np.float64).reshape(-1)
    except (TypeError, ValueError):
        raise DatasetError(f"{where}: {name}: wanted {count} numbers, found {value!r}") from None
    if len(found) != count or not np.isfinite(found).all():
        raise DatasetError(f"{where}: {name}: wanted {count} finite numbers, found {value!r}")
    return found


def rigid(entry: dict, rotation: str, translation: str, where: object) -> np.ndarray:
    """Two fields, a rotation row by row and millimetres -> (4, 4) metres."""
    result = np.eye(4)
    result[:3, :3] = nearest_rotation(
        numbers(entry, rotation, 9, where).reshape(3, 3), f"{where}: {rotation}"
    )
    result[:3, 3] = numbers(entry, translation, 3, where) * METRES
    return result


def nearest_rotation(matrix: np.ndarray, where: str) -> np.ndarray:
    """The nearest rotation; refuses what is further away than rounding explains."""
    u, _, vt = np.linalg.svd(matrix)
    nearest = u @ vt
    off = np.abs(nearest - matrix).max()
    if np.linalg.det(nearest) < 0 or off > _ROTATION_TOLERANCE:
        raise DatasetError(
            f"{where}: wanted a rotation, found {matrix.tolist()} ({off:.2g} from orthogonal, "
            f"determinant {np.linalg.det(matrix):.3g})"
        )
    return nearest
