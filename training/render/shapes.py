# SPDX-License-Identifier: Apache-2.0
"""Meshes as triangle soups, made by formulas: the cube that is trained on, and primitives to clutter a scene.

A soup keeps three separate vertices for every triangle, so normals, texture coordinates and picture layers
may jump at every edge.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pose_kd_ros.core.extent import diameter


@dataclass(frozen=True)
class Mesh:
    """A triangle soup of V = 3 x (number of triangles) vertices; lengths in metres.

    positions (V, 3), normals (V, 3) unit, uv (V, 2) in 0..1, layers (V,) picture index 0..5 of the side
    the vertex lies on, colours (V, 3) in 0..1, texture (H, W, 3) uint8 RGB or None, symmetries (S, 4, 4)
    incl. the identity.
    """

    positions: np.ndarray
    normals: np.ndarray
    uv: np.ndarray
    layers: np.ndarray
    colours: np.ndarray
    texture: np.ndarray | None = None
    symmetries: np.ndarray | None = None

    @property
    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """Smallest corner and edge lengths of the axis-aligned box, (3,) and (3,), metres."""
        low = self.positions.min(0)
        return low, self.positions.max(0) - low

    @cached_property
    def hull(self) -> np.ndarray:
        """(N, 3) vertices of the convex hull, metres: what bounds the mesh from any side."""
        from scipy.spatial import ConvexHull

        points = np.unique(self.positions.astype(np.float64), axis=0)
        return points[ConvexHull(points).vertices]

    @cached_property
    def diameter(self) -> float:
        """Largest distance between two vertices, metres (exact, on the convex hull)."""
        return diameter(self.hull)

    def interleaved(self) -> np.ndarray:
        """(V, 12) float32: position, normal, uv, layer, colour, as the vertex shader reads them."""
        parts = (self.positions, self.normals, self.uv, self.layers[:, None], self.colours)
        return np.ascontiguousarray(np.hstack(parts), dtype=np.float32)


def soup(corners: np.ndarray, faces: np.ndarray, smooth: bool) -> Mesh:
    """Mesh from corners (N, 3) m and faces (F, 3) int, with pictures laid on from the six sides of its
    box."""
    positions = corners[faces].reshape(-1, 3).astype(np.float64)
    flat = face_normals(positions)
    normals = vertex_normals(corners, faces) if smooth else flat
    uv, layers = box_mapping(positions, flat)
    return Mesh(positions, normals, uv, layers, np.ones_like(positions))


def face_normals(positions: np.ndarray) -> np.ndarray:
    """(V, 3) unit normals, the same for the three vertices of a triangle; zero-area triangles get (0, 0,
    1)."""
    a, b, c = positions.reshape(-1, 3, 3).transpose(1, 0, 2)
    normals = np.cross(b - a, c - a)
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    normals = np.where(length > 0, normals / np.maximum(length, 1e-30), [0.0, 0.0, 1.0])
    return np.repeat(normals, 3, axis=0)


def vertex_normals(corners: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(3 F, 3) unit normals, area-weighted means over the triangles that share a corner."""
    a, b, c = corners[faces].transpose(1, 0, 2)
    total = np.zeros(corners.shape)
    for k in range(3):
        np.add.at(total, faces[:, k], np.cross(b - a, c - a))
    total /= np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-30)
    return total[faces].reshape(-1, 3)


def box_mapping(positions: np.ndarray, normals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Texture coordinates (V, 2) and layers (V,) as seen from the box side that each normal points at.

    Convention: layer = 2 x axis + (1 where the normal is negative), so +x 0, -x 1, +y 2 ... -z 5.
    """
    axis = np.abs(normals).argmax(1)
    negative = np.take_along_axis(normals, axis[:, None], 1)[:, 0] < 0
    low = positions.min(0)
    unit = (positions - low) / np.maximum(positions.max(0) - low, 1e-12)
    rows = np.arange(len(positions))
    uv = np.stack([unit[rows, (axis + 1) % 3], unit[rows, (axis + 2) % 3]], 1)
    return uv, 2 * axis + negative


def cube(edge_m: float = 0.084) -> Mesh:
    """Cube of the given edge (metres), origin in its centre, a different picture on each
    face, 24 symmetries.

    Convention: edge 0.084 -> corners at +-0.042 on each axis, diameter 0.084 x sqrt(3) = 0.1455 m.
    """
    mesh = box() if edge_m == 1.0 else _scaled(box(), edge_m)
    symmetries = np.tile(np.eye(4), (24, 1, 1))
    symmetries[:, :3, :3] = cube_rotations()
    return Mesh(mesh.positions, mesh.normals, mesh.uv, mesh.layers, mesh.colours, None, symmetries)


def _scaled(mesh: Mesh, factor: float) -> Mesh:
    return Mesh(mesh.positions * factor, mesh.normals, mesh.uv, mesh.layers, mesh.colours)


def cube_rotations() -> np.ndarray:
    """Return the 24 rotations that map a cube to itself, (24, 3, 3), identity first."""
    found = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            matrix = np.zeros((3, 3))
            matrix[range(3), order] = signs
            if np.linalg.det(matrix) > 0:
                found.append(matrix)
    return np.stack(sorted(found, key=lambda m: -np.trace(m)))


def box() -> Mesh:
    """Unit cube, -0.5..0.5."""
    corners = np.array(list(itertools.product((-0.5, 0.5), repeat=3)))
    quads = [(4, 6, 7, 5), (0, 1, 3, 2), (2, 3, 7, 6), (0, 4, 5, 1), (1, 5, 7, 3), (0, 2, 6, 4)]
    faces = np.array([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))])
    return soup(corners, faces, smooth=False)


def plane() -> Mesh:
    """Unit square in z = 0, facing +z, uv once over it."""
    corners = np.array([(-0.5, -0.5, 0), (0.5, -0.5, 0), (0.5, 0.5, 0), (-0.5, 0.5, 0)])
    return soup(corners, np.array([(0, 1, 2), (0, 2, 3)]), smooth=False)


def revolved(profile: np.ndarray, segments: int = 40, smooth: bool = True) -> Mesh:
    """Solid of revolution about z from a profile (N, 2) of (radius, z)."""
    angle = 2 * np.pi * np.arange(segments) / segments
    ring = np.stack([np.cos(angle), np.sin(angle)], 1)
    corners = np.concatenate([np.column_stack([r * ring, np.full(segments, z)]) for r, z in profile])
    return soup(corners, _grid_faces(len(profile), segments, closed=False), smooth)


def _grid_faces(rows: int, columns: int, closed: bool) -> np.ndarray:
    i, j = np.meshgrid(np.arange(rows if closed else rows - 1), np.arange(columns), indexing="ij")
    a, b = i * columns + j, i * columns + (j + 1) % columns
    c, d = (i + 1) % rows * columns + (j + 1) % columns, (i + 1) % rows * columns + j
    return np.stack([np.stack([a, b, c], -1), np.stack([a, c, d], -1)], 2).reshape(-1, 3)


def cylinder() -> Mesh:
    """Unit diameter and height, with caps."""
    rim = [(0, -0.5), (0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (0.5, 0.5), (0, 0.5)]
    return revolved(np.array(rim))


def cone() -> Mesh:
    """Unit diameter and height."""
    return revolved(np.array([(0, -0.5), (0.5, -0.5), (0.5, -0.5), (0.0, 0.5)]))


def sphere() -> Mesh:
    """Unit diameter."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, 24)
    return revolved(0.5 * np.stack([np.cos(angle), np.sin(angle)], 1))


def capsule() -> Mesh:
    """A rod with round ends: diameter 0.3, height 1."""
    angle = np.linspace(0, np.pi / 2, 10)
    top = np.stack([0.15 * np.cos(angle), 0.35 + 0.15 * np.sin(angle)], 1)
    return revolved(np.concatenate([(top * [1, -1])[::-1], top]))


def torus(tube: float = 0.14, around: int = 24, segments: int = 40) -> Mesh:
    """Ring of outer diameter 1 and the given tube radius, of 2 x around x segments triangles."""
    angle = 2 * np.pi * np.arange(around) / around
    profile = np.stack([0.5 - tube + tube * np.cos(angle), tube * np.sin(angle)], 1)
    return _revolved_closed(profile, segments)


def _revolved_closed(profile: np.ndarray, segments: int = 40) -> Mesh:
    angle = 2 * np.pi * np.arange(segments) / segments
    ring = np.stack([np.cos(angle), np.sin(angle)], 1)
    corners = np.concatenate([np.column_stack([r * ring, np.full(segments, z)]) for r, z in profile])
    return soup(corners, _grid_faces(len(profile), segments, closed=True), smooth=True)


def blob(seed: int) -> Mesh:
    """A bumpy, potato-like closed surface of about unit diameter; the same for the same seed."""
    rng = np.random.default_rng(seed)
    theta = np.linspace(-np.pi / 2, np.pi / 2, 28)[:, None]
    phi = (2 * np.pi * np.arange(40) / 40)[None]
    unit = np.stack(
        np.broadcast_arrays(np.cos(theta) * np.cos(phi), np.cos(theta) * np.sin(phi), np.sin(theta)), -1
    ).reshape(-1, 3)
    waves = rng.normal(size=(8, 3)) * 2.5
    radius = 0.42 + 0.05 * np.sin(unit @ waves.T + rng.uniform(0, 6.28, 8)).sum(1, keepdims=True) / 1.5
    return soup(unit * radius, _grid_faces(28, 40, closed=False), smooth=True)


def primitives() -> dict[str, Mesh]:
    """Return the shapes of a scene's clutter, by name; all about one metre in size, to be scaled."""
    shapes = {
        "box": box(),
        "plane": plane(),
        "cylinder": cylinder(),
        "cone": cone(),
        "sphere": sphere(),
        "capsule": capsule(),
        "torus": torus(),
        "ring": torus(0.05),
    }
    return shapes | {f"blob{k}": blob(k) for k in range(4)}
