# SPDX-License-Identifier: Apache-2.0
"""Whether a mesh, a description of its size and its symmetries are about one object."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..core.extent import diameter
from ..core.pose import transform
from .faults import DatasetError

SAME_SIZE = 0.05  # of the diameter: decimated meshes and rounded boxes stay within
SYMMETRIC = 0.03  # of the diameter: mean distance of the turned surface from itself; BOP's eggbox has 0.013
FARTHEST = 0.07  # of the diameter: 99 of 100 points of the turned surface are nearer; BOP's eggbox has 0.052
SAMPLES = 2000
TURNS = 8  # of a continuous symmetry that are tried


def check_size(where: str, points: np.ndarray, wanted: float, low: np.ndarray, size: np.ndarray) -> None:
    """Raise DatasetError where points (V, 3) have another diameter or box than wanted; all in metres.

    low, size: (3,) the box's smallest corner and its sides.
    """
    if not np.isfinite(points).all():
        row = int(np.flatnonzero(~np.isfinite(points).all(1))[0])
        raise DatasetError(f"{where}: vertex {row}: wanted finite numbers, found {points[row].tolist()}")
    found, sides = points.min(0), np.ptp(points, axis=0)
    off = max(np.abs(found - low).max(), np.abs(sides - size).max())
    if off <= SAME_SIZE * wanted:
        return
    here = diameter(_outer(points))
    factor = wanted / here if here else np.inf
    hint = "; is its unit millimetres?" if not 0.2 < factor < 5 else ""
    raise DatasetError(
        f"{where}: wanted a diameter of {wanted:.4g} m and a box of {_text(size)} m from {_text(low)}, "
        f"found {here:.4g} m and {_text(sides)} m from {_text(found)}{hint}"
    )


def check_symmetries(where: str, surface: np.ndarray, wanted: float, symmetries: np.ndarray) -> None:
    """Raise DatasetError for a symmetry that does not map the surface, points (N, 3), to itself.

    wanted: diameter, metres. symmetries: (S, 4, 4), the identity first.
    """
    from scipy.spatial import cKDTree

    tree = cKDTree(surface)
    some = surface[:: max(1, len(surface) // SAMPLES)]
    spacing = float(np.median(tree.query(some, k=2)[0][:, 1])) if len(surface) > 1 else 0.0
    for number, symmetry in enumerate(symmetries):
        gaps = tree.query(transform(symmetry, some))[0]
        mean, worst = float(gaps.mean()), float(np.percentile(gaps, 99))
        if mean > SYMMETRIC * wanted + spacing / 2 or worst > FARTHEST * wanted + spacing / 2:
            found = f"its points {mean:.4g} m from it on average, {worst:.4g} m at most"
            raise DatasetError(
                f"{where}: symmetry {number}: wanted one that maps the mesh, of diameter {wanted:.4g} m, to "
                f"itself, found {found}"
            )


def surface_samples(corners: np.ndarray, count: int = 20_000) -> np.ndarray:
    """Return points (count, 3) drawn evenly over triangles, corners (F, 3, 3); the same ones each time.

    Vertices would not do: a mesh may have many on one face and four on the others.
    """
    rng = np.random.default_rng(0)
    areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    if not areas.sum() > 0:
        return corners.reshape(-1, 3)
    chosen = corners[rng.choice(len(corners), count, p=areas / areas.sum())]
    return np.einsum("nk,nkd->nd", rng.dirichlet((1, 1, 1), count), chosen)


def tried_symmetries(discrete: np.ndarray, continuous: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return the transforms (S, 4, 4) to check: the discrete ones, and some turns of each continuous one."""
    from ..core.object_model import rotations_about

    turns = [rotations_about(axis, offset, TURNS) for axis, offset in continuous]
    return np.concatenate([np.asarray(discrete, float).reshape(-1, 4, 4), *turns])


def _outer(points: np.ndarray) -> np.ndarray:
    from scipy.spatial import ConvexHull, QhullError

    try:
        return points[ConvexHull(points).vertices]
    except (QhullError, ValueError):  # all in one plane
        return points


def _text(values: np.ndarray) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"
