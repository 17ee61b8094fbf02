# SPDX-License-Identifier: Apache-2.0
"""Results in BOP's format, one estimate a line, below the header

    scene_id,im_id,obj_id,score,R,t,time

R: nine numbers row by row; t: three, millimetres; both separated by blanks. time: seconds for the whole
image, the same in all of its lines, -1 where unknown. The header may be missing, as it may for bop_toolkit.
Convention: t "0 0 1000" -> T_camera_object[:3, 3] = (0, 0, 1.0).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...provenance import write_whole
from ..faults import DatasetError
from ..values import METRES, nearest_rotation

COLUMNS = ("scene_id", "im_id", "obj_id", "score", "R", "t", "time")
SAME_TIME_S = 1e-3  # times of one image that differ by more are not one time


@dataclass(frozen=True)
class BopResult:
    """One estimate. T_camera_object (4, 4) metres, its rotation as the file has it: published figures rest on
    rotations that are not projected to SO(3). seconds: for the whole image, -1 where unknown."""

    scene_id: int
    image_id: int
    object_id: int
    score: float
    T_camera_object: np.ndarray
    seconds: float = -1.0


def read_results(path: Path) -> list[BopResult]:
    """All estimates of a file, in its order. DatasetError names file, line and column."""
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read: {error}") from error
    results: list[BopResult] = []
    times: dict[tuple[int, int], float] = {}
    for number, line in enumerate(lines, 1):
        if line.strip() and not (number == 1 and line.startswith(COLUMNS[0])):
            results.append(_result(line, f"{path}, line {number}"))
            _check_time(results[-1], times, f"{path}, line {number}")
    return results


def write_results(path: Path, results: Iterable[BopResult]) -> None:
    """Write the file whole or not at all; numbers so that reading gives the same ones."""
    lines = [",".join(COLUMNS), *(_line(result) for result in results)]
    write_whole(path, "\n".join(lines) + "\n")


def _line(result: BopResult) -> str:
    pose = result.T_camera_object
    ids = (str(n) for n in (result.scene_id, result.image_id, result.object_id))
    rotation, translation = pose[:3, :3].reshape(-1), pose[:3, 3] / METRES
    blocks = (_joined([result.score]), _joined(rotation), _joined(translation), _joined([result.seconds]))
    return ",".join((*ids, *blocks))


def _joined(values: Iterable[float]) -> str:
    return " ".join(repr(float(value)) for value in values)


def _result(line: str, where: str) -> BopResult:
    cells = line.split(",")
    if len(cells) != len(COLUMNS):
        raise DatasetError(f"{where}: wanted {len(COLUMNS)} columns {','.join(COLUMNS)}, found {len(cells)}")
    row = dict(zip(COLUMNS, cells))
    scene, image, object_id = (_whole(row[name], f"{where}, column {name}") for name in COLUMNS[:3])
    (score,), rotation, translation, (seconds,) = (
        _numbers(row[name], count, f"{where}, column {name}")
        for name, count in (("score", 1), ("R", 9), ("t", 3), ("time", 1))
    )
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = np.reshape(rotation, (3, 3)), np.array(translation) * METRES
    nearest_rotation(pose[:3, :3], f"{where}, column R")
    return BopResult(scene, image, object_id, score, pose, seconds)


def _whole(text: str, where: str) -> int:
    if not text.strip().isdigit():
        raise DatasetError(f"{where}: wanted a whole number, found {text!r}")
    return int(text)


def _numbers(text: str, count: int, where: str) -> list[float]:
    try:
        found = [float(part) for part in text.split()]
    except ValueError:
        found = []
    if len(found) != count or not all(map(math.isfinite, found)):
        raise DatasetError(f"{where}: wanted {count} finite numbers, found {text!r}")
    return found


def _check_time(result: BopResult, times: dict[tuple[int, int], float], where: str) -> None:
    """Refuse a line whose time is not that of its image's first line."""
    first = times.setdefault((result.scene_id, result.image_id), result.seconds)
    if abs(result.seconds - first) > SAME_TIME_S:
        raise DatasetError(
            f"{where}, column time: wanted {first:g} s, as the first line of scene {result.scene_id}, image "
            f"{result.image_id} says, found {result.seconds:g}"
        )
