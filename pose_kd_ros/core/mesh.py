# SPDX-License-Identifier: Apache-2.0
"""A small triangle mesh, and what a camera sees of it: which face each ray meets, and which edges show.

Faces are numbered counter-clockwise seen from outside. No image is drawn: a ray is compared with all faces at
once, which for a mesh of a few hundred faces takes a millisecond or two.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from .object_model import ObjectModel
from .pose import cross, inverse, transform

SHARP = np.radians(40.0)  # faces that meet at a sharper angle show an edge, whatever the light
BEHIND = 0.02  # of the mesh's size: a point so far behind another face is hidden
# Of a box's corners as object_model.box_corners orders them.
BOX_TRIANGLES = np.array(
    [
        *((0, 1, 3), (0, 3, 2), (4, 6, 7), (4, 7, 5), (0, 4, 5), (0, 5, 1)),
        *((2, 3, 7), (2, 7, 6), (0, 2, 6), (0, 6, 4), (1, 5, 7), (1, 7, 3)),
    ]
)


@dataclass(frozen=True, eq=False)
class Mesh:
    """A surface, metres in the object's frame, whose vertices are shared by the faces that meet there.

    vertices: (V, 3). triangles: (F, 3) indices. sharp: (E, 2) pairs of vertices, edges that show by
    themselves, not as parts of the outline alone. Raises ValueError. Worked: ``Mesh.of_box`` has 8 vertices,
    12 triangles and 12 sharp edges; the diagonals of its sides are not sharp.

    edges: (D, 2) all edges, and neighbours: (D, 2), the two faces that meet at each; of a rim, one twice.
    """

    vertices: np.ndarray
    triangles: np.ndarray
    sharp: np.ndarray
    edges: np.ndarray = field(init=False)
    neighbours: np.ndarray = field(init=False)
    is_sharp: np.ndarray = field(init=False)
    normals: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        vertices = np.array(self.vertices, float)
        if vertices.ndim != 2 or vertices.shape[1] != 3 or not np.isfinite(vertices).all():
            raise ValueError(f"mesh: vertices: wanted finite (V, 3), found {vertices.shape}")
        triangles = _indices(self.triangles, 3, len(vertices), "triangles")
        sharp = np.sort(_indices(self.sharp, 2, len(vertices), "sharp"), axis=1)
        if not len(triangles):
            raise ValueError("mesh: triangles: wanted at least one, found none")
        edges, neighbours = _edges(triangles)
        keys, wanted = (pairs[:, 0] * len(vertices) + pairs[:, 1] for pairs in (edges, sharp))
        if not np.isin(wanted, keys).all():
            raise ValueError("mesh: sharp: wanted edges of the triangles, found others")
        values = (vertices, triangles, sharp, edges, neighbours, np.isin(keys, wanted))
        names = ("vertices", "triangles", "sharp", "edges", "neighbours", "is_sharp")
        for name, value in (*zip(names, values), ("normals", face_normals(vertices, triangles))):
            value.setflags(write=False)
            object.__setattr__(self, name, value)

    @classmethod
    def of_faces(cls, vertices: np.ndarray, triangles: np.ndarray, angle: float = SHARP) -> Mesh:
        """Make a mesh whose sharp edges are those where faces meet at more than ``angle`` radians, and
        rims."""
        plain = cls(vertices, triangles, np.zeros((0, 2), int))
        first, second = plain.normals[plain.neighbours].swapaxes(0, 1)
        bent = np.einsum("ij,ij->i", first, second) < np.cos(angle)
        rim = plain.neighbours[:, 0] == plain.neighbours[:, 1]
        return cls(vertices, triangles, plain.edges[bent | rim])

    @classmethod
    def of_box(cls, model: ObjectModel) -> Mesh:
        """Make the mesh of an object that fills its box."""
        return cls.of_faces(model.corners(), BOX_TRIANGLES)

    @property
    def size(self) -> float:
        """The diagonal of the vertices' box, metres."""
        return float(np.linalg.norm(np.ptp(self.vertices, axis=0)))

    def scaled(self, factor: float) -> Mesh:
        """Return the same shape, ``factor`` times as large."""
        return Mesh(self.vertices * factor, self.triangles, self.sharp)


def _indices(values: ArrayLike, columns: int, most: int, name: str) -> np.ndarray:
    array = np.array(values)
    if array.ndim != 2 or array.shape[1] != columns or array.dtype.kind not in "iu":
        raise ValueError(f"mesh: {name}: wanted integers (N, {columns}), found {array.dtype} {array.shape}")
    if array.size and not 0 <= array.min() <= array.max() < most:
        raise ValueError(f"mesh: {name}: wanted indices below {most}, found {array.min()} to {array.max()}")
    return array.astype(np.int64)


def _edges(triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every edge once (D, 2), the lower index first, and the first and last face (D, 2) that have it."""
    pairs = np.sort(triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    edges, of = np.unique(pairs, axis=0, return_inverse=True)
    order = np.argsort(of.ravel(), kind="stable")
    ends = np.searchsorted(of.ravel()[order], np.arange(len(edges)), "right")
    starts = np.r_[0, ends[:-1]]
    return edges, np.stack([order[starts], order[ends - 1]], -1) // 3


def face_normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Return unit normals (F, 3), outward; zero of a face without area."""
    a, b, c = np.asarray(vertices)[triangles].swapaxes(0, 1)
    normal = cross(b - a, c - a)
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    return np.divide(normal, length, out=np.zeros_like(normal), where=length > 0)


def outward(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Return the triangles (F, 3), turned over if they enclose a negative volume: a mesh that was exported
    inside out. Of an open mesh the volume is that of cones from the vertices' mean."""
    a, b, c = (vertices - vertices.mean(0))[triangles].swapaxes(0, 1)
    return triangles[:, ::-1] if np.einsum("ij,ij->", a, cross(b, c)) < 0 else triangles


def is_facing(mesh: Mesh, pose: ArrayLike) -> np.ndarray:
    """Return which faces (F,) turn their outside to the camera."""
    eye = inverse(pose)[:3, 3]
    return np.einsum("ij,ij->i", mesh.normals, eye - mesh.vertices[mesh.triangles[:, 0]]) > 0


def visible_edges(mesh: Mesh, pose: ArrayLike) -> np.ndarray:
    """Return the indices of edges that show unless something hides them: sharp ones of faces that turn to
    the camera, and those of the outline, between a face that does and one that does not."""
    first, second = is_facing(mesh, pose)[mesh.neighbours].T
    return np.flatnonzero((first != second) | (mesh.is_sharp & first))


def cast(mesh: Mesh, pose: ArrayLike, rays: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return where rays (N, 3) from the camera meet the mesh first: depth (N,) along z if the rays have
    z = 1, infinite where they miss, and the face (N,).

    A ray d is s d = a A + b B + c C at a face with corners A, B, C; solved for (a, b, c) / s, all three must
    be positive, and their sum is 1 / s, since a + b + c = 1. Source: Moeller and Trumbore, "Fast, minimum
    storage ray/triangle intersection", 1997, here with the camera as origin. Faces reaching behind the
    camera are not met.
    """
    corners = transform(pose, mesh.vertices)
    faces = np.flatnonzero(is_facing(mesh, pose) & (corners[mesh.triangles, 2] > 0).all(1))
    a, b, c = corners[mesh.triangles[faces]].swapaxes(0, 1)
    volume = np.einsum("ij,ij->i", a, cross(b, c))
    solver = np.stack([cross(b, c), cross(c, a), cross(a, b)]) / np.where(volume, volume, np.inf)[:, None]
    rays = np.asarray(rays, float)
    if not len(faces):
        return np.full(len(rays), np.inf), np.zeros(len(rays), int)
    first, second, third = (rays @ part.T for part in solver)
    inside = (first >= 0) & (second >= 0) & (third >= 0)
    nearness = np.where(inside, first + second + third, 0.0)
    nearest = nearness.argmax(1)
    best = nearness[np.arange(len(nearest)), nearest]
    return np.divide(1.0, best, out=np.full(len(best), np.inf), where=best > 0), faces[nearest]


def is_seen(mesh: Mesh, pose: ArrayLike, points: ArrayLike) -> np.ndarray:
    """Return which points (N, 3) of the surface no other part of it hides, by BEHIND of its size."""
    seen = transform(pose, points)
    depth, _ = cast(mesh, pose, seen / seen[:, 2:])
    return seen[:, 2] < depth + BEHIND * mesh.size
