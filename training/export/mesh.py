# SPDX-License-Identifier: Apache-2.0
"""Put small meshes, with which the robot refines poses, into a bundle."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import numpy as np

from pose_kd_ros.bundle.manifest import mesh_file
from pose_kd_ros.bundle.store import Bundle, write_bundle
from pose_kd_ros.core.mesh import Mesh
from pose_kd_ros.core.object_model import ObjectModel
from pose_kd_ros.datasets.meshes import SMALL, load_small_mesh

from ..render.mesh_files import METRES, numbered_meshes

BOX = Path("box")


def with_meshes(bundle: Bundle, source: Path, unit: str = "mm", faces: int = SMALL) -> Bundle:
    """Add meshes of at most ``faces`` triangles for the objects of a bundle, and replace the bundle.

    source: a mesh file for the only object, a folder with a mesh for each, or "box" for objects that fill
    their boxes. Raises ValueError for a mesh that does not fit its object, and leaves the bundle as it was.
    """
    meshes = {model.id: _mesh_of(model, bundle, source, unit, faces) for model in bundle.objects}
    files = {name: bundle.folder / name for name in bundle.manifest.files}
    with tempfile.TemporaryDirectory() as work:
        for object_id, mesh in meshes.items():
            files[mesh_file(object_id)] = Path(work, mesh_file(object_id))
            write_mesh(files[mesh_file(object_id)], mesh)
        _check(bundle, files, Path(work))
        hashes = dict.fromkeys(files, "")
        manifest = dataclasses.replace(bundle.manifest, files=hashes)
        return write_bundle(bundle.folder, manifest, files, bundle.locator)


def write_mesh(path: Path, mesh: Mesh) -> None:
    """Write a mesh as a bundle holds it: plain arrays, no pickle."""
    vertices, triangles = mesh.vertices.astype(np.float32), mesh.triangles.astype(np.uint16)
    np.savez_compressed(path, vertices=vertices, triangles=triangles, sharp=mesh.sharp.astype(np.uint16))


def _mesh_of(model: ObjectModel, bundle: Bundle, source: Path, unit: str, faces: int) -> Mesh:
    if source == BOX:
        return Mesh.of_box(model)
    if source.is_dir():
        files = numbered_meshes(source)
        if model.id not in files:
            raise ValueError(f"{source}: wanted a mesh of object {model.id}, found {sorted(files)}")
        return load_small_mesh(files[model.id], faces, METRES[unit])
    if len(bundle.objects) > 1:
        raise ValueError(f"--mesh: wanted a folder of {len(bundle.objects)} meshes, found {source}")
    return load_small_mesh(source, faces, METRES[unit])


def _check(bundle: Bundle, files: dict[str, Path], work: Path) -> None:
    """Read the new files as the robot will. Raises BundleError."""
    read = dataclasses.replace(
        bundle, folder=work, manifest=dataclasses.replace(bundle.manifest, files=dict.fromkeys(files, ""))
    )
    for model in bundle.objects:
        read.mesh(model.id)
