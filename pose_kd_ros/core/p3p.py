# SPDX-License-Identifier: Apache-2.0
"""The pose of three points, for many triples at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .pose import cross, make_pose


def solve_p3p(rays: ArrayLike, points: ArrayLike) -> np.ndarray:
    """Return all poses (P, 4, 4), ``T_camera_object``, that put points (H, 3, 3) on unit rays (H, 3, 3).

    Up to four poses a triple, points ahead of the camera; degenerate triples give none. Source: Grunert's
    quartic as in Haralick et al., "Review and Analysis of Solutions of the Three Point Perspective Pose
    Estimation Problem", IJCV 1994; roots are eigenvalues of the companion matrix, Newton polishes distances.
    """
    rays, points = np.asarray(rays, float), np.asarray(points, float)
    distances = np.linalg.norm(points[:, [1, 2, 0]] - points[:, [2, 0, 1]], axis=-1)  # opposite 1, 2, 3
    cosines = (rays[:, [1, 2, 0]] * rays[:, [2, 0, 1]]).sum(-1)
    with np.errstate(all="ignore"):
        v, triple = _roots(_quartic(distances**2, cosines))
        depths = _depths(v, distances[triple] ** 2, cosines[triple])
        depths, solved = _polish(depths, distances[triple] ** 2, cosines[triple])
        depths, triple = depths[solved], triple[solved]
        poses = _align(points[triple], depths[..., None] * rays[triple])
    return poses[np.isfinite(poses).all((1, 2))]


def _quartic(squares: np.ndarray, cosines: np.ndarray) -> np.ndarray:
    """Coefficients (H, 5), highest first, of the polynomial in v = s3 / s1."""
    (a, b, c), (alpha, beta, gamma) = squares.T, cosines.T
    minus, plus = (a - c) / b, (a + c) / b
    mixed = alpha * gamma * (1 - plus)
    return np.stack(
        [
            (minus - 1) ** 2 - 4 * c / b * alpha**2,
            4 * (minus * (1 - minus) * beta - mixed + 2 * c / b * alpha**2 * beta),
            2
            * (
                minus**2
                - 1
                + 2 * minus**2 * beta**2
                + 2 * (b - c) / b * alpha**2
                - 4 * plus * alpha * beta * gamma
                + 2 * (b - a) / b * gamma**2
            ),
            4 * (-minus * (1 + minus) * beta + 2 * a / b * gamma**2 * beta - mixed),
            (1 + minus) ** 2 - 4 * a / b * gamma**2,
        ],
        -1,
    )


def _roots(coefficients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positive real roots (P,) of H quartics, and the quartic (P,) each belongs to."""
    companion = np.zeros((len(coefficients), 4, 4))
    companion[:, [1, 2, 3], [0, 1, 2]] = 1
    companion[:, 0] = -coefficients[:, 1:] / coefficients[:, :1]
    usable = np.isfinite(companion).all((1, 2))
    roots = np.linalg.eigvals(companion[usable])
    real = (np.abs(roots.imag) < 1e-3 * np.abs(roots)) & (roots.real > 0)
    return roots.real[real], np.flatnonzero(usable)[np.nonzero(real)[0]]


def _depths(v: np.ndarray, squares: np.ndarray, cosines: np.ndarray) -> np.ndarray:
    """Distances (P, 3) of the three points along their rays, for roots v (P,)."""
    (a, b, c), (alpha, beta, gamma) = squares.T, cosines.T
    minus = (a - c) / b
    u = ((minus - 1) * v**2 - 2 * minus * beta * v + 1 + minus) / (2 * (gamma - v * alpha))
    first = np.sqrt(b / (1 + v**2 - 2 * v * beta))
    return np.stack([first, u * first, v * first], -1)


def _polish(s: np.ndarray, squares: np.ndarray, cosines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Three Newton steps on the laws of cosines; returns distances (P, 3) and which of them hold (P,)."""
    s, squares, cosines = s.T, squares.T, cosines.T  # row k: the law without distance k
    i, j = [1, 2, 0], [2, 0, 1]
    for step in range(4):
        si, sj = s[i], s[j]
        error = si * si + sj * sj - 2 * si * sj * cosines - squares
        if step == 3:
            break
        # law k holds the distances i and j alone, so Cramer's rule is short: p d_i + q d_j = error
        p, q = 2 * (si - sj * cosines), 2 * (sj - si * cosines)
        change = p * p[i] * error[j] - p[i] * q[j] * error + q * q[j] * error[i]
        determinant = p[0] * p[1] * p[2] + q[0] * q[1] * q[2]
        s = s - change / np.where(np.abs(determinant) > 1e-30, determinant, np.inf)
    return s.T, ((np.abs(error) < 1e-6 * squares.max(0)) & (s > 0)).all(0)


def _align(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Poses (P, 4, 4) that lay triangles (P, 3, 3) onto congruent triangles (P, 3, 3)."""
    rotation = _frames(target) @ np.swapaxes(_frames(source), -1, -2)
    return make_pose(rotation, target[:, 0] - np.einsum("pij,pj->pi", rotation, source[:, 0]))


def _frames(triangles: np.ndarray) -> np.ndarray:
    x = triangles[:, 1] - triangles[:, 0]
    z = cross(x, triangles[:, 2] - triangles[:, 0])
    x, z = (v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (x, z))
    return np.stack([x, cross(z, x), z], -1)
