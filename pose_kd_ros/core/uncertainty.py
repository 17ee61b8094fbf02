# SPDX-License-Identifier: Apache-2.0
"""From what the votes say of a pose's covariance to what held-out images say of its errors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from .object_model import ObjectModel

ANY_TURN = np.pi**2 / 3  # variance of an angle of which nothing is known


def stated_covariance(
    covariance: ArrayLike,
    pose: np.ndarray,
    model: ObjectModel,
    scale: float = 1.0,
    shared: Sequence[float] = (0, 0, 0),
) -> np.ndarray:
    """Return the covariance (6, 6) to publish, by the convention of ``core.refine``.

    covariance: (6, 6) of ``refine_pose``, which holds what differs from vote to vote; it is multiplied by
    ``scale``. shared: standard deviations of what all votes have in common and their scatter does not show:
    across the line of sight in diameters, along it in shares of the distance, and of the rotation in radians.
    A turn about an axis of continuous symmetry is not known at all.

    Convention: (0.01, 0.02, 0.05) adds 1 mm across for an object of 100 mm, 2 cm of depth at 1 m, and 0.05
    rad about each axis.
    """
    stated = scale * np.asarray(covariance, float) + shared_covariance(pose, model.diameter, shared)
    for axis, offset in model.symmetry_axes:
        about = pose[:3, :3] @ axis
        change = np.concatenate([np.cross(pose[:3, :3] @ offset, about), about])
        stated += ANY_TURN * np.outer(change, change)
    return stated


def shared_covariance(pose: np.ndarray, diameter: float, shared: Sequence[float]) -> np.ndarray:
    """Return the part (6, 6) of ``stated_covariance`` that ``shared`` adds for an object of a diameter."""
    across, along, turn = shared
    place = np.asarray(pose, float)[:3, 3]
    distance = np.linalg.norm(place)
    sight = np.outer(place, place) / distance**2
    added = np.zeros((6, 6))
    added[:3, :3] = (across * diameter) ** 2 * (np.eye(3) - sight) + (along * distance) ** 2 * sight
    added[3:, 3:] = turn**2 * np.eye(3)
    return added
