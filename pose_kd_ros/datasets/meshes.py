# SPDX-License-Identifier: Apache-2.0
"""Meshes in millimetres: vertices of ply files with NumPy alone, triangles with open3d."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import numpy as np

from ..core.mesh import Mesh, outward
from .faults import DatasetError
from .values import METRES

# CAD programs on Windows end lines with \r\n.
HEADER_END = re.compile(rb"(?<=[\r\n])end_header[ \t]*(\r\n|\n|\r)")
SMALL = 1000  # triangles
_PLY_TYPES = {
    "char": "i1",
    "int8": "i1",
    "uchar": "u1",
    "uint8": "u1",
    "short": "i2",
    "int16": "i2",
    "ushort": "u2",
    "uint16": "u2",
    "int": "i4",
    "int32": "i4",
    "uint": "u4",
    "uint32": "u4",
    "float": "f4",
    "float32": "f4",
    "double": "f8",
    "float64": "f8",
}


_PLY_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">"}


def load_ply_vertices(path: Path) -> np.ndarray:
    """Vertices (N, 3) float64 metres of a ply file in millimetres (ASCII, or binary of either byte order)."""
    lines, form, body = _split_ply(path)
    count, columns = _ply_vertex_layout(path, lines)
    names = [name for name, _ in columns]
    if form == "ascii":
        rows = [line.split() for line in body.decode("ascii", "replace").splitlines() if line.strip()][:count]
        _check_ply_size(path, count, len(rows))
        columns_of_xyz = [names.index(axis) for axis in "xyz"]
        try:
            table = np.array([[row[k] for k in columns_of_xyz] for row in rows], np.float64).reshape(-1, 3)
        except (ValueError, IndexError) as error:
            raise DatasetError(
                f"{path}: vertex: wanted {len(names)} numbers a line, found {error}"
            ) from error
    else:
        order = _PLY_ORDERS.get(form)
        if order is None:
            raise DatasetError(f"{path}: format: wanted ascii or binary, found {form!r}")
        kind = np.dtype([(name, order + _PLY_TYPES[t]) for name, t in columns])
        _check_ply_size(path, count, len(body) // kind.itemsize)
        record = np.frombuffer(body, kind, count)
        table = np.stack([record[axis] for axis in "xyz"], 1).astype(np.float64)
    return checked_vertices(table * METRES, path)


def load_ply_triangles(path: Path) -> np.ndarray:
    """Triangles (F, 3) of a ply file, faces cut into fans; none where faces are missing, come in several
    sizes or cannot be read."""
    lines, form, body = _split_ply(path)
    count, columns = _ply_vertex_layout(path, lines)
    elements = [k for k, line in enumerate(lines) if line[:1] == ["element"]]
    after = lines[elements[1] :] if len(elements) > 1 else []
    end = elements[2] - elements[1] if len(elements) > 2 else len(after)
    properties = [line for line in after[:end] if line[:1] == ["property"]]
    try:
        wanted = int(after[0][2]) if after and after[0][1] == "face" and properties[0][1] == "list" else 0
        if not wanted:
            return np.zeros((0, 3), int)
        if form == "ascii":
            rows = [line.split() for line in body.decode("ascii", "replace").splitlines() if line.strip()]
            rows = rows[count : count + wanted]
            sizes = np.array([row[0] for row in rows], int)
            faces = np.array([row[1 : 1 + sizes[0]] for row in rows], int)
        else:
            order = _PLY_ORDERS[form]
            body = body[count * np.dtype([(name, order + _PLY_TYPES[t]) for name, t in columns]).itemsize :]
            record = np.frombuffer(body, _ply_face_layout(properties, order, body), wanted)
            lengths = np.stack([record[name] for name in record.dtype.names or () if name[:1] == "n"], 1)
            sizes, faces = lengths[:, 0], record["list0"].astype(int)
            if (lengths != lengths[0]).any():
                return np.zeros((0, 3), int)
    except (ValueError, IndexError, KeyError):
        return np.zeros((0, 3), int)
    if (sizes != sizes[0]).any() or len(faces) < wanted or not 0 <= faces.min() <= faces.max() < count:
        return np.zeros((0, 3), int)
    fans = [faces[:, [0, k, k + 1]] for k in range(1, faces.shape[1] - 1)]
    return np.concatenate([np.zeros((0, 3), int), *fans])


def _ply_face_layout(properties: list[list[str]], order: str, body: bytes) -> np.dtype:
    """The type of a face's record, where all faces are as long as the first one: property k is its length nk
    and its content listk, or valuek."""
    fields: list[tuple] = []
    for k, words in enumerate(properties):
        if words[1] == "list":
            length = np.dtype(order + _PLY_TYPES[words[2]])
            size = int(np.frombuffer(body, length, 1, np.dtype(fields).itemsize)[0])
            fields += [(f"n{k}", length), (f"list{k}", order + _PLY_TYPES[words[3]], (size,))]
        else:
            fields.append((f"value{k}", order + _PLY_TYPES[words[1]]))
    return np.dtype(fields)


def _split_ply(path: Path) -> tuple[list[list[str]], str, bytes]:
    """Return a ply file's header lines in words, its format and what follows the header."""
    data = Path(path).read_bytes()
    end = HEADER_END.search(data)
    lines = [
        line.split() for line in data[: end.start() if end else 0].decode("ascii", "replace").splitlines()
    ]
    if end is None or lines[:1] != [["ply"]]:
        raise DatasetError(f"{path}: wanted a ply file, found no header")
    return lines, next((line[1] for line in lines if line[:1] == ["format"]), "none"), data[end.end() :]


def checked_vertices(vertices: np.ndarray, path: Path) -> np.ndarray:
    """Return the vertices (V, 3); DatasetError that names the first one which is not finite."""
    if len(bad := np.flatnonzero(~np.isfinite(vertices).all(1))):
        found = vertices[bad[0]].tolist()
        raise DatasetError(f"{path}: vertex {bad[0]}: wanted finite numbers, found {found}")
    return vertices


def _check_ply_size(path: Path, wanted: int, found: int) -> None:
    if found < wanted:
        raise DatasetError(f"{path}: vertex: wanted {wanted} as the header says, found {found}")


def _ply_vertex_layout(path: Path, lines: list[list[str]]) -> tuple[int, list[tuple[str, str]]]:
    elements = [k for k, line in enumerate(lines) if line[:1] == ["element"]]
    if not elements or lines[elements[0]][1] != "vertex":
        raise DatasetError(f"{path}: element: wanted vertex first, found {[lines[k][1] for k in elements]}")
    end = elements[1] if len(elements) > 1 else len(lines)
    columns = [(line[2], line[1]) for line in lines[elements[0] + 1 : end] if line[:1] == ["property"]]
    for axis in "xyz":
        if axis not in dict(columns):
            raise DatasetError(f"{path}: vertex: wanted a property {axis}, found {', '.join(dict(columns))}")
    return int(lines[elements[0]][2]), columns


def load_mesh(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3), metres, and triangles (F, 3) of a mesh in millimetres;
    DatasetError where it has none."""
    if not Path(path).is_file():
        raise DatasetError(f"{path}: no such file")
    mesh = import_open3d().io.read_triangle_mesh(str(path))
    vertices, triangles = np.asarray(mesh.vertices), np.asarray(mesh.triangles)
    if not len(triangles):
        raise DatasetError(f"{path}: wanted triangles, found {len(vertices)} points without")
    return checked_vertices(vertices * METRES, path), triangles


def load_small_mesh(path: Path, faces: int = SMALL, metres: float = METRES) -> Mesh:
    """Read a mesh, metres per unit of the file, and decimate it to ``faces`` triangles at most (quadric error
    metrics, Garland and Heckbert 1997), its faces turned outward. DatasetError as ``load_mesh``."""
    vertices, triangles = load_mesh(path)
    open3d = import_open3d()
    mesh = open3d.geometry.TriangleMesh(
        open3d.utility.Vector3dVector(vertices * (metres / METRES)), open3d.utility.Vector3iVector(triangles)
    )
    mesh.remove_duplicated_vertices()
    if len(triangles) > faces:
        mesh = mesh.simplify_quadric_decimation(faces)
    mesh.remove_degenerate_triangles()
    mesh.remove_unreferenced_vertices()
    try:
        small = np.asarray(mesh.vertices), np.asarray(mesh.triangles)
        return Mesh.of_faces(small[0], outward(*small))
    except ValueError as error:
        raise DatasetError(f"{path}: {error}") from error


def import_open3d() -> ModuleType:
    try:
        import open3d
    except (ImportError, OSError) as error:
        raise DatasetError(
            f"open3d reads meshes and renders them for VSD, and cannot be imported ({error}): "
            "pip install open3d-cpu; on BOP data sets --no-vsd leaves VSD out"
        ) from error
    return open3d
