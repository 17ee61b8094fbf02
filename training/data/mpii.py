# SPDX-License-Identifier: Apache-2.0
"""MPII Human Pose: the json files of the public code bases, and the head boxes of the official annotations.

Convention: MPII counts pixels from 1: its joint (804, 711) is the pixel (803, 710).
Source: http://human-pose.mpi-inf.mpg.de/#download and the evaluation published there.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from pose_kd_ros.datasets.faults import DatasetError, Faults
from pose_kd_ros.datasets.values import as_list, numbers, read_json

from .people import MARGIN, MPII, People, Person, picture_of

NECK, HEAD_TOP = 8, 9
NOT_MPII = (KeyError, TypeError, ValueError, OSError, NotImplementedError, MatReadError, zlib.error)
HEAD_SHARE = 0.6  # of the head box's diagonal is the head's size
Heads = dict[
    str, np.ndarray
]  # of a picture's name: (n, 3) the people's objpos x, y as in the file, head size


def read_mpii(path: Path, images: Path, heads: Path | None = None, faults: Faults | None = None) -> People:
    """Return the people of a list of entries with image, center, scale, joints and joints_vis.

    The centre is moved down by 15 ``scale`` (height / 200), so that the feet are in the region; a joint at
    (-1, -1) is missing. heads: mpii_human_pose_v1_u12_1.mat; without it a head's size is the distance of the
    joints 8 and 9, and PCKh is not comparable with published figures. Raises DatasetError, or as ``faults``
    says.
    """
    faults, persons = faults or Faults(), []
    if heads is not None and not Path(heads).is_file():
        raise DatasetError(f"{heads}: wanted a file, found none")
    sizes = None if heads is None else read_heads(heads)
    for number, entry in enumerate(as_list(read_json(path), path)):
        try:
            persons.append(_person(entry, number, f"{path}, entry {number}", images, sizes))
        except DatasetError as error:
            faults.add(error)
    head_size = f"joints {NECK}-{HEAD_TOP}" if heads is None else f"{HEAD_SHARE} x head box diagonal"
    return People(MPII, tuple(persons), Path(path), head_size=head_size)


def _person(entry: Any, number: int, where: str, images: Path, sizes: Heads | None) -> Person:
    picture = picture_of(entry, "image", where, images)
    center, scale = numbers(entry, "center", 2, where), float(numbers(entry, "scale", 1, where)[0])
    if scale <= 0:
        raise DatasetError(f"{where}: scale: wanted a positive number, found {scale:g}")
    joints = numbers(entry, "joints", 2 * len(MPII.keypoints), where).reshape(-1, 2)
    visible = (numbers(entry, "joints_vis", len(joints), where) > 0) & ~(joints == -1).all(1)
    head_size: float | None
    if sizes is not None:
        head_size = _matching(sizes, picture.name, center, where)
    else:
        seen = visible[[NECK, HEAD_TOP]].all()
        head_size = float(np.linalg.norm(joints[NECK] - joints[HEAD_TOP])) if seen else None
    return Person(
        image=picture,
        center=center + (0, 15 * scale) - 1,
        extent=np.full(2, 200 * MARGIN * scale),
        points=joints - 1,
        visible=visible.astype(np.float32),
        image_id=number,
        id=number,
        head_size=head_size,
    )


def _matching(sizes: Heads, name: str, center: np.ndarray, where: str) -> float:
    people = sizes.get(name, np.empty((0, 3)))
    matching = people[np.abs(people[:, :2] - center).max(1) < 1]
    if not len(matching):
        wanted = f"a head box of a person at {center.tolist()} of {name}"
        raise DatasetError(f"{where}: center: wanted {wanted}, found none", "head")
    return float(matching[0, 2])


def read_heads(path: Path) -> Heads:
    """Head sizes of ``RELEASE.annolist(i).annorect(j)``, whose head box is x1, y1, x2, y2; people without one
    are left out. DatasetError where the file is none of MPII's."""
    try:
        release = loadmat(path, simplify_cells=True, variable_names="RELEASE")["RELEASE"]
        return {each["image"]["name"]: _head_sizes(each["annorect"]) for each in _many(release["annolist"])}
    except FileNotFoundError:
        raise DatasetError(f"{path}: wanted a file, found none", "head") from None
    except NOT_MPII as error:
        raise DatasetError(
            f"{path}: wanted RELEASE.annolist(i).image.name and .annorect, found {error!r}", "head"
        ) from error


def _head_sizes(rects: Any) -> np.ndarray:
    rows = []
    for each in _many(rects):
        if not isinstance(each.get("objpos"), dict) or not np.size(each.get("x1", ())):
            continue
        x1, y1, x2, y2 = (float(each[name]) for name in ("x1", "y1", "x2", "y2"))
        size = HEAD_SHARE * float(np.hypot(x2 - x1, y2 - y1))
        rows.append((float(each["objpos"]["x"]), float(each["objpos"]["y"]), size))
    return np.array(rows).reshape(-1, 3)


def _many(found: Any) -> list:
    """MATLAB's arrays of one struct are read as the struct."""
    return [found] if isinstance(found, dict) else list(found)
