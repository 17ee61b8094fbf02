# SPDX-License-Identifier: Apache-2.0
"""Read mesh files (ply, obj, stl; through trimesh) and write BOP's models folder (millimetres)."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pose_kd_ros.datasets.bop import load_models_info
from pose_kd_ros.datasets.meshes import checked_vertices
from pose_kd_ros.datasets.shape_check import check_size, check_symmetries, surface_samples, tried_symmetries
from pose_kd_ros.provenance import write_whole
from training.render.config import RenderConfig
from training.render.files import read_object
from training.render.shapes import Mesh, box_mapping, cube, face_normals

if TYPE_CHECKING:
    import trimesh

METRES = {"m": 1.0, "mm": 1e-3}
MESH_SUFFIXES = (".ply", ".obj", ".stl")
_PLAUSIBLE_DIAMETER_M = (0.005, 5.0)


@dataclass(frozen=True)
class Target:
    """An object to be learned: BOP id, mesh (metres), and its symmetry fields of models_info.json (mm)."""

    object_id: int
    mesh: Mesh
    symmetries: dict[str, list]


def load_targets(config: RenderConfig) -> list[Target]:
    """Return the objects to be learned: the file or the models folder that the configuration names, or
    the procedural cube.

    Raises ValueError for a folder that models_info.json or its files' names do not explain.
    """
    if config.mesh is None:
        mesh = cube(config.cube_edge_mm * 1e-3)
    elif config.mesh.is_dir():
        return _load_folder(config.mesh, config.mesh_unit, config.appearance == "own")
    else:
        mesh = load_mesh(config.mesh, config.mesh_unit, config.appearance == "own")
    if config.symmetries is not None:
        _check_symmetries(config.symmetries, config.object_id, mesh)
    return [Target(config.object_id, mesh, symmetry_fields(config, mesh))]


def _load_folder(folder: Path, unit: str, own: bool) -> list[Target]:
    path = folder / "models_info.json"
    if not path.exists():
        meshes = sorted(numbered_meshes(folder).items())
        return [Target(i, load_mesh(mesh, unit, own), {}) for i, mesh in meshes]
    targets = []
    for object_id, info in sorted(load_models_info(path).items()):
        mesh = folder / f"obj_{object_id:06d}.ply"
        if not mesh.exists():
            raise ValueError(f"{mesh}: wanted the mesh of object {object_id} in {path}, found none")
        loaded = load_mesh(mesh, unit, own)
        check_size(str(mesh), loaded.positions, info.diameter_m, info.box_min, info.box_size)
        _check_symmetries(path, object_id, loaded)
        targets.append(Target(object_id, loaded, _symmetries_of(path, object_id)))
    return targets


def _check_symmetries(path: Path, object_id: int, mesh: Mesh) -> None:
    """Raise DatasetError where models_info.json names a symmetry that the mesh does not have."""
    info = load_models_info(path).get(object_id)
    if info is not None and (len(info.symmetries_discrete) > 1 or info.symmetries_continuous):
        tried = tried_symmetries(info.symmetries_discrete, info.symmetries_continuous)
        surface = surface_samples(mesh.positions.reshape(-1, 3, 3))
        check_symmetries(f"{path}, object {object_id}", surface, mesh.diameter, tried)


def numbered_meshes(folder: Path) -> dict[int, Path]:
    """Return the mesh files in a folder and its sub-folders by object id: the number that the file's name, or
    else its folder's, begins with.

    Convention: 003_cracker_box/textured.obj and 3_box.ply are object 3. Raises ValueError for a mesh without
    a number, and for two with one.
    """
    found: dict[int, Path] = {}
    files = sorted([*folder.glob("*"), *folder.glob("*/*")])  # unlike rglob, through links to folders
    for path in (p for p in files if p.suffix.lower() in MESH_SUFFIXES):
        numbers = [m for name in (path.name, path.parent.name) if (m := re.match(r"(?:obj_)?(\d+)", name))]
        if not numbers:
            example = f"3_{path.name}"
            raise ValueError(
                f"{path}: wanted a name that begins with the object's id ({example}), found none"
            )
        number = int(numbers[0][1])
        if number in found:
            raise ValueError(f"{path}: wanted one mesh of object {number}, found {found[number]} too")
        found[number] = path
    if not found:
        raise ValueError(f"{folder}: wanted meshes ({', '.join(MESH_SUFFIXES)}), found none")
    return found


def _symmetries_of(path: Path, object_id: int) -> dict[str, list]:
    entry = json.loads(path.read_text())[str(object_id)]
    return {name: entry[name] for name in ("symmetries_discrete", "symmetries_continuous") if name in entry}


def load_mesh(path: Path, unit: str, own: bool = False) -> Mesh:
    """Load a mesh file in metres, with its UV texture, vertex colours or its material's colour.

    own: its colours matter, so a material whose picture is missing is refused. Raises ValueError for that,
    for an unreadable or empty file, and for a diameter outside 5 mm..5 m (wrong unit).
    """
    import trimesh

    try:
        loaded = trimesh.load(str(path), process=False, force="mesh")
    except Exception as error:
        raise ValueError(f"{path}: wanted a mesh, found {error}") from error
    if not isinstance(loaded, trimesh.Trimesh) or len(loaded.faces) == 0:
        raise ValueError(f"{path}: wanted a mesh with triangles, found none")
    checked_vertices(np.asarray(loaded.vertices, np.float64), path)
    if own:
        check_pictures(path)
    mesh = _from_trimesh(loaded, METRES[unit])
    low, high = _PLAUSIBLE_DIAMETER_M
    if not low <= mesh.diameter <= high:
        other = "m" if unit == "mm" else "mm"
        raise ValueError(
            f"{path}: wanted a diameter of {low}..{high} m, found {mesh.diameter:.4g} m when read in {unit}; "
            f"in {other} it would be {mesh.diameter * METRES[other] / METRES[unit]:.4g} m"
        )
    return mesh


def _from_trimesh(loaded: trimesh.Trimesh, metres: float) -> Mesh:
    index = loaded.faces.reshape(-1)
    positions = np.asarray(loaded.vertices, np.float64)[index] * metres
    normals = np.asarray(loaded.vertex_normals, np.float64)[index]
    normals = np.where(np.abs(normals).sum(1, keepdims=True) > 0, normals, face_normals(positions))
    uv, layers = box_mapping(positions, face_normals(positions))
    own_uv, texture = _own_texture(loaded)
    if own_uv is not None and texture is not None:
        uv, layers = own_uv[index], np.zeros(len(index))
    return Mesh(positions, normals, uv, layers, _own_colours(loaded)[index], texture)


def _own_texture(loaded: trimesh.Trimesh) -> tuple[np.ndarray | None, np.ndarray | None]:
    uv = getattr(loaded.visual, "uv", None)
    material = getattr(loaded.visual, "material", None)
    image = getattr(material, "image", None) or getattr(material, "baseColorTexture", None)
    if uv is None or image is None:
        return None, None
    return np.asarray(uv), np.asarray(image.convert("RGB"))[::-1]  # v up in files, rows down in pictures


def _own_colours(loaded: trimesh.Trimesh) -> np.ndarray:
    visual: Any = loaded.visual  # of one of several classes, with attributes that they compute when asked
    if visual.kind in ("vertex", "face"):
        return np.asarray(visual.vertex_colors)[:, :3] / 255.0
    colour = getattr(getattr(visual, "material", None), "main_color", None)
    if colour is not None:
        return np.tile(np.asarray(colour)[:3] / 255.0, (len(loaded.vertices), 1))
    return np.ones((len(loaded.vertices), 3))


def check_pictures(path: Path) -> None:
    """Raise ValueError where an OBJ file names a material file, or that one a picture, that is not there."""
    if path.suffix.lower() != ".obj":
        return
    for material in _named(path, "mtllib"):
        if not material.is_file():
            raise ValueError(f"{path}: wanted its material file {material}, found none")
        for picture in _named(material, "map_Kd"):
            if not picture.is_file():
                raise ValueError(f"{material}: wanted its picture {picture}, found none")


def _named(path: Path, keyword: str) -> list[Path]:
    """Return the files that the lines with a keyword name, relative to the file that they are in; options may
    stand before the name."""
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        first, _, rest = line.strip().partition(" ")
        if first.lower() == keyword.lower() and rest.strip():
            whole = path.parent / rest.strip().replace("\\", "/")
            found.append(whole if whole.is_file() or "-" not in rest else path.parent / rest.split()[-1])
    return found


def symmetry_fields(config: RenderConfig, mesh: Mesh) -> dict[str, list]:
    """Return the symmetry fields of models_info.json (mm): the cube's 24 rotations, or those of
    `config.symmetries`.

    Raises ValueError where that file is wrong or does not know the object's id.
    """
    if config.symmetries is None:
        own = mesh.symmetries
        return {} if own is None else {"symmetries_discrete": [_in_mm(matrix) for matrix in own[1:]]}
    if config.object_id not in load_models_info(config.symmetries):
        raise ValueError(f"{config.symmetries}: wanted object {config.object_id}, found others")
    return _symmetries_of(config.symmetries, config.object_id)


def _in_mm(symmetry: np.ndarray) -> list[float]:
    scaled = symmetry + 0.0  # no negative zeros in the file
    scaled[:3, 3] *= 1000
    return scaled.reshape(-1).tolist()


def content_hash(targets: list[Target]) -> str:
    """Return the SHA-256 of the meshes' triangles (corners in order, to 1e-6 mm); colours do not count."""
    digest = hashlib.sha256()
    for target in targets:
        corners = np.round(target.mesh.positions * 1000, 6) + 0.0  # no negative zeros
        digest.update(np.ascontiguousarray(corners, "<f8").tobytes())
    return digest.hexdigest()


def check_models(folder: Path, targets: list[Target]) -> None:
    """Raise ValueError, naming both, where ``folder`` already holds other objects or another mesh.

    All splits of a data set share its models: other objects in their place would change what the first
    split's labels mean.
    """
    advice = "choose another folder or delete this one's data"
    path = folder / "models_info.json"
    infos = read_object(path) if path.exists() else {}
    wanted = {str(t.object_id): json.loads(json.dumps(_size_fields(t.mesh) | t.symmetries)) for t in targets}
    if infos and sorted(infos) != sorted(wanted):
        found, ids = (", ".join(sorted(each)) for each in (infos, wanted))
        raise ValueError(f"{path}: wanted object {ids}, found object {found}; {advice}")
    for target in targets:
        key = str(target.object_id)
        entry, there = wanted[key], infos.get(key, wanted[key])
        for name in sorted(entry.keys() | there.keys()):
            if there.get(name) != entry.get(name):
                raise ValueError(
                    f"{path}: object {key}: {name}: wanted {_short(entry.get(name))}, "
                    f"found {_short(there.get(name))}; {advice}"
                )
        ply = folder / f"obj_{target.object_id:06d}.ply"
        if ply.exists() and ply.read_text() != (text := _ply_text(target.mesh)):
            old, new = (hashlib.sha256(t.encode()).hexdigest()[:12] for t in (ply.read_text(), text))
            raise ValueError(f"{ply}: wanted the mesh with SHA-256 {new}..., found {old}...; {advice}")


def _short(value: object) -> str:
    return f"{len(value)} of them" if isinstance(value, list) else str(value)


def write_models(folder: Path, targets: list[Target]) -> None:
    """models/obj_<id>.ply (ASCII, vertices in mm) and models_info.json as BOP defines them.

    Raises ValueError where other models are there already (check_models).
    """
    check_models(folder, targets)
    folder.mkdir(parents=True, exist_ok=True)
    for target in targets:
        write_whole(folder / f"obj_{target.object_id:06d}.ply", _ply_text(target.mesh))
    info = {str(t.object_id): _size_fields(t.mesh) | t.symmetries for t in targets}
    write_whole(folder / "models_info.json", json.dumps(info, indent=1) + "\n")


def _size_fields(mesh: Mesh) -> dict[str, float]:
    low, size = (np.round(values * 1000, 6) for values in mesh.box)
    info = {"diameter": round(mesh.diameter * 1000, 6)}
    info |= {f"min_{axis}": float(low[k]) for k, axis in enumerate("xyz")}
    return info | {f"size_{axis}": float(size[k]) for k, axis in enumerate("xyz")}


def _ply_text(mesh: Mesh) -> str:
    corners, index = np.unique(np.round(mesh.positions * 1000, 6), axis=0, return_inverse=True)
    faces = index.reshape(-1, 3)
    header = [
        "ply",
        "format ascii 1.0",
        f"element vertex {len(corners)}",
        *(f"property float {a}" for a in "xyz"),
        f"element face {len(faces)}",
        "property list uchar int vertex_indices",
        "end_header",
    ]
    rows = [" ".join(f"{value:.6g}" for value in corner) for corner in corners]
    rows += [f"3 {a} {b} {c}" for a, b, c in faces]
    return "\n".join([*header, *rows]) + "\n"
