# SPDX-License-Identifier: Apache-2.0
"""People with annotated joints, and what both readers (``coco``, ``mpii``) require of an entry.

Convention: all pixels are the full image's, centres at integers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pose_kd_ros.core.camera import Crop
from pose_kd_ros.datasets.faults import DatasetError
from pose_kd_ros.datasets.source import Source, decoded
from pose_kd_ros.datasets.values import field
from pose_kd_ros.pipeline.people import mirrored_order

MARGIN = 1.25  # side of the region that a network sees, in units of the person's box


@dataclass(frozen=True)
class Skeleton:
    """Names of K joints, and pairs of their indices: those that a mirror swaps, and those that are linked."""

    keypoints: tuple[str, ...]
    flip: tuple[tuple[int, int], ...]
    links: tuple[tuple[int, int], ...]

    def mirrored(self) -> np.ndarray:
        """Return the joint (K,) of a person that each joint of the mirrored person is."""
        return mirrored_order(len(self.keypoints), self.flip)


# fmt: off
COCO = Skeleton(
    ("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder",
     "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee",
     "right_knee", "left_ankle", "right_ankle"),
    ((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)),
    ((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9),
     (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
)
MPII = Skeleton(
    ("right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "pelvis", "thorax",
     "upper_neck", "head_top", "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow",
     "left_wrist"),
    ((5, 0), (4, 1), (3, 2), (15, 10), (14, 11), (13, 12)),
    ((0, 1), (1, 2), (2, 6), (6, 3), (3, 4), (4, 5), (6, 7), (7, 8), (8, 9), (10, 11), (11, 12), (12, 7),
     (7, 13), (13, 14), (14, 15)),
)
# fmt: on


@dataclass(frozen=True, eq=False)
class Person:
    """One person of one picture.

    center (2,), extent (2,) width and height, pixels: the region to look at, of any aspect, margin included.
    points (K, 2) pixels; visible (K,) 1 where the joint is annotated, else 0. image_id, id: the file's own
    (MPII has none: the entry's number). head_size: what PCKh measures in, pixels. score: of a detected box.
    """

    image: Path
    center: np.ndarray
    extent: np.ndarray
    points: np.ndarray
    visible: np.ndarray
    image_id: int
    id: int
    head_size: float | None = None
    score: float = 1.0

    def __post_init__(self):
        if np.shape(self.points) != (len(self.visible), 2) or not np.isfinite(self.points).all():
            raise ValueError(f"points: wanted ({len(self.visible)}, 2) finite numbers, found {self.points}")
        if not np.isin(self.visible, (0, 1)).all():
            raise ValueError(f"visible: wanted 0 or 1, found {self.visible}")
        if np.shape(self.extent) != (2,) or not np.min(self.extent) > 0:
            raise ValueError(f"extent: wanted a positive width and height, found {self.extent}")

    def crop(self, width: int, height: int) -> Crop:
        """Return the smallest region of this aspect about the person, as width x height input."""
        scale = float(min(width / self.extent[0], height / self.extent[1]))
        left, top = self.center + 0.5 - np.array((width, height)) / (2 * scale)
        return Crop(left, top, scale, width, height)

    def load(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB, EXIF orientation not followed; DatasetError where the picture is damaged."""
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        return decoded(Source(self.image), flags, "picture")[..., ::-1].copy()


@dataclass(frozen=True)
class People:
    """What the file ``annotations`` holds. images: ids of all its pictures that can be used, with people or
    without (COCO). head_size: what a person's is made of, in words (MPII)."""

    skeleton: Skeleton
    persons: tuple[Person, ...]
    annotations: Path
    images: tuple[int, ...] = ()
    head_size: str | None = None

    def first(self, count: int) -> People:
        """Return at least the first ``count`` persons, in whole pictures: persons who were left out would
        count as missed."""
        ids = dict.fromkeys(person.image_id for person in self.persons[:count])
        persons = tuple(person for person in self.persons if person.image_id in ids)
        return replace(self, persons=persons, images=tuple(i for i in self.images if i in ids))


def picture_of(entry: Any, name: str, where: str, images: Path) -> Path:
    """Return the file that the field names, in the folder ``images``; DatasetError where there is none."""
    path = Path(images) / str(field(entry, name, where))
    if not path.is_file():
        raise DatasetError(f"{where}: {name}: wanted the picture {path}, found none", "picture")
    return path
