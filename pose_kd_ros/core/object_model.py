# SPDX-License-Identifier: Apache-2.0
"""What is known of an object: its keypoints, box, diameter and symmetries. All lengths in metres."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from .pose import allocentric, check_pose, from_rotation_vector, make_pose, rotation_angle, transform

CONTINUOUS_STEPS = 315  # BOP's discretisation of a continuous symmetry (steps of 1/100 of the diameter)


def box_corners(center: ArrayLike, size: ArrayLike) -> np.ndarray:
    """Return the 8 corners (8, 3) of a box; corner i takes -x, -y, -z where bits 2, 1, 0 of i are unset."""
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
    return np.asarray(center, float) + signs * np.asarray(size, float) / 2


def rotations_about(
    axis: ArrayLike, offset: ArrayLike = (0.0, 0.0, 0.0), steps: int = CONTINUOUS_STEPS
) -> np.ndarray:
    """Return (steps, 4, 4) rotations about the line through ``offset`` along ``axis`` (both (3,), metres)."""
    unit, offset = np.asarray(axis, float) / np.linalg.norm(axis), np.asarray(offset, float)
    turns = np.stack([from_rotation_vector(unit * 2 * np.pi * i / steps) for i in range(steps)])
    return make_pose(turns, offset - turns @ offset)


def expand_symmetries(
    discrete: ArrayLike = (),
    continuous: Iterable[tuple[ArrayLike, ArrayLike]] = (),
    steps: int = CONTINUOUS_STEPS,
) -> np.ndarray:
    """Return all symmetry transforms (S, 4, 4), identity first: every discrete @ every continuous one.

    BOP's own tools compose continuous @ discrete: the same set where the discrete ones map the axis to
    itself, as those of one object do.
    ``discrete``: (n, 4, 4), identity optional. ``continuous``: (axis, offset) pairs.
    """
    discrete = np.asarray(discrete, float).reshape(-1, 4, 4)
    base = [np.eye(4)] + [s for s in discrete if not np.allclose(s, np.eye(4))]
    turns = [t for axis, offset in continuous for t in rotations_about(axis, offset, steps)] or [np.eye(4)]
    return np.stack([s @ t for s in base for t in turns])


@dataclass(frozen=True)
class ObjectModel:
    """One object class.

    keypoints: (K, 3), whose projections the network predicts. box_center, box_size: (3,). diameter: largest
    distance between two surface points. symmetries: (S, 4, 4), identity first, continuous ones discretised.
    symmetry_axes: (A, 2, 3), direction of unit length and offset of the continuous ones. reference: (3, 3),
    the allocentric rotation that symmetric representatives are chosen near.
    """

    id: int
    name: str
    diameter: float
    box_center: np.ndarray
    box_size: np.ndarray
    keypoints: np.ndarray
    symmetries: np.ndarray = field(default_factory=lambda: np.eye(4)[None])
    reference: np.ndarray = field(default_factory=lambda: np.eye(3))
    symmetry_axes: np.ndarray = field(default_factory=lambda: np.zeros((0, 2, 3)))

    def __post_init__(self) -> None:
        for name, shape in (("box_center", (3,)), ("box_size", (3,)), ("reference", (3, 3))):
            self._set_array(name, shape)
        self._set_array("keypoints", (None, 3))
        self._set_array("symmetries", (None, 4, 4))
        self._set_array("symmetry_axes", (None, 2, 3))
        if not (np.isfinite(self.diameter) and 0.001 < self.diameter < 100):
            raise ValueError(f"object {self.name!r}: diameter: wanted 1 mm to 100 m, found {self.diameter} m")
        if (self.box_size < 0).any():
            found = self.box_size.tolist()
            raise ValueError(f"object {self.name!r}: box_size: wanted no negative sides, found {found}")
        if len(self.keypoints) < 4:
            found = len(self.keypoints)
            raise ValueError(f"object {self.name!r}: keypoints: wanted at least 4, found {found}")
        if not np.allclose(self.symmetries[0], np.eye(4)):
            raise ValueError(f"object {self.name!r}: the first symmetry must be the identity")
        for index, symmetry in enumerate(self.symmetries):
            check_pose(symmetry, f"object {self.name!r}, symmetry {index}")

    def _set_array(self, name: str, shape: tuple) -> None:
        try:
            array = np.array(getattr(self, name), float)
        except (ValueError, TypeError) as error:
            where = f"object {self.name!r}: {name}"
            raise ValueError(f"{where}: wanted numbers of one shape, found {error}") from error
        fits = array.ndim == len(shape) and all(w in (None, f) for w, f in zip(shape, array.shape))
        if not fits or not np.isfinite(array).all():
            raise ValueError(f"object {self.name!r}: {name}: wanted finite {shape}, found {array.shape}")
        array.setflags(write=False)
        object.__setattr__(self, name, array)

    def corners(self) -> np.ndarray:
        """The box's corners (8, 3) in the object frame."""
        return box_corners(self.box_center, self.box_size)

    def scaled(self, factor: float) -> ObjectModel:
        """The same shape ``factor`` times as large (symmetry offsets included)."""
        symmetries = self.symmetries.copy()
        symmetries[:, :3, 3] *= factor
        axes = self.symmetry_axes * [[1.0], [factor]]
        return ObjectModel(
            self.id,
            self.name,
            self.diameter * factor,
            self.box_center * factor,
            self.box_size * factor,
            self.keypoints * factor,
            symmetries,
            self.reference,
            axes,
        )


def symmetric_angles(pose: ArrayLike, model: ObjectModel) -> np.ndarray:
    """Angles in radians (S,) of all symmetric representatives' allocentric rotations to the reference."""
    center = model.symmetries[:, :3, 3].mean(0)  # no symmetry moves it, as some do the origin
    seen = allocentric(np.asarray(pose, float) @ make_pose(np.eye(3), center)) @ model.symmetries[:, :3, :3]
    cosine = (np.einsum("ij,sij->s", model.reference, seen) - 1) / 2
    return np.arccos(np.clip(cosine, -1, 1))


def representatives(
    pose: ArrayLike, model: ObjectModel, margin: float = np.radians(5.0), apart: float = np.radians(20.0)
) -> np.ndarray:
    """Return the (R, 4, 4) equivalent poses of ``T_camera_object`` that training may aim at, nearest first.

    R = 1 except within ``margin`` radians of a boundary, where the tied ones follow; neighbours on a
    continuous symmetry, closer than ``apart`` radians to one already taken, are the same choice and left out.
    Source: the symmetric representative has the allocentric rotation nearest to a fixed reference.
    """
    angles = symmetric_angles(pose, model)
    rotations = model.symmetries[:, :3, :3]
    kept: list[int] = []
    for index in np.argsort(angles, kind="stable"):
        if angles[index] > angles.min() + margin:
            break
        if not kept or rotation_angle(rotations[kept], rotations[index]).min() > apart:
            kept.append(index)
    return np.asarray(pose, float) @ model.symmetries[kept]


def canonical(pose: ArrayLike, model: ObjectModel, previous: np.ndarray | None = None) -> np.ndarray:
    """Return the representative of ``T_camera_object`` nearest to ``previous`` (4, 4), else to the reference.

    Nearest to the previous pose means the smallest mean distance of the box corners, so that a symmetric
    object's frame does not jump between frames.
    """
    if len(model.symmetries) == 1:
        return np.asarray(pose, float)
    if previous is None:
        return np.asarray(pose, float) @ model.symmetries[int(np.argmin(symmetric_angles(pose, model)))]
    candidates = np.asarray(pose, float) @ model.symmetries
    gaps = transform(candidates, model.corners()) - transform(previous, model.corners())
    return candidates[int(np.argmin(np.linalg.norm(gaps, axis=-1).mean(-1)))]
