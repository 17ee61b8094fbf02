# SPDX-License-Identifier: Apache-2.0
"""Where to look: the whole frame at low resolution, or a zoomed crop around what is expected."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.camera import Camera
from ..core.object_model import ObjectModel
from ..core.pose import transform


@dataclass(frozen=True)
class Region:
    """A part of the image where one object is expected: box (x0, y0, x1, y1) in full, raw pixels.

    object_id: None for any class. track_id: carried through to the estimate.
    """

    box: np.ndarray
    object_id: int | None = None
    track_id: int | None = None

    def __post_init__(self) -> None:
        box = np.asarray(self.box, float)
        if box.shape != (4,) or not np.isfinite(box).all() or not (box[2:] > box[:2]).all():
            raise ValueError(
                f"region: box: wanted finite x0 < x1 and y0 < y1, found {np.array2string(box, precision=1)}"
            )
        object.__setattr__(self, "box", box)


@dataclass(frozen=True)
class Places:
    """Where a search has found objects, likeliest first, and the milliseconds of its stages."""

    regions: list[Region]
    stages_ms: dict[str, float]


def projected_box(pose: np.ndarray, model: ObjectModel, camera: Camera) -> np.ndarray | None:
    """Return the box (x0, y0, x1, y1) about the object's projected box corners in raw pixels, None if it
    leaves the view: a corner behind the camera, or no overlap with the image."""
    pixels = camera.project(transform(pose, model.corners()))
    if not np.isfinite(pixels).all():
        return None
    box = np.concatenate([pixels.min(0), pixels.max(0)])
    inside = (box[2:] > 0).all() and box[0] < camera.width and box[1] < camera.height
    return box if inside else None


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of boxes (x0, y0, x1, y1)."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = float(np.prod(np.maximum(sides, 0)))
    return shared / (float(np.prod(a[2:] - a[:2])) + float(np.prod(b[2:] - b[:2])) - shared + 1e-9)
