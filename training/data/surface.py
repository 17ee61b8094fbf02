# SPDX-License-Identifier: Apache-2.0
"""An object's surface codes, computed once and stored beside its mesh, and the codes that pixels see."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import numpy as np
import trimesh
from scipy.spatial import cKDTree

from pose_kd_ros.bundle.manifest import surface_file
from pose_kd_ros.bundle.store import sha256
from pose_kd_ros.core.object_model import ObjectModel, representatives
from pose_kd_ros.core.pose import inverse, transform
from pose_kd_ros.core.surface import BITS, SurfaceCodes, balanced_order
from pose_kd_ros.datasets.faults import DatasetError

from .objects import MAX_TIED

OFF = 0.05  # of the diameter: a pixel whose depth lies farther from the mesh does not see it
MOST_OFF = 0.2  # share of an instance's pixels; more, and depth, pose and mesh do not belong together


def load_surface(models: Path, object_id: int) -> SurfaceCodes:
    """Return the surface codes of ``models``/obj_<id>.ply; they are computed once and kept beside it.

    Where ZebraPose splits the mesh's vertices, these are 2**16 points drawn evenly over its faces (seed 0):
    every code has a point, whatever the mesh's tessellation. Raises ValueError for a mesh without faces, and
    for codes that were kept of another mesh.
    """
    kept, mesh = Path(models) / surface_file(object_id), Path(models) / f"obj_{object_id:06d}.ply"
    if not kept.exists():
        _keep(kept, _drawn(mesh), sha256(mesh))
    with np.load(kept, allow_pickle=False) as stored:
        if str(stored["mesh"]) != sha256(mesh):
            raise ValueError(
                f"{kept}: wanted codes of {mesh}, found those of another mesh; remove the file, and train "
                "again what used it"
            )
        return SurfaceCodes(stored["points"])


def _keep(path: Path, points: np.ndarray, mesh: str) -> None:
    handle, temporary = tempfile.mkstemp(suffix=".npz", dir=path.parent)
    os.close(handle)
    try:
        np.savez(temporary, points=points.astype(np.float32), mesh=mesh)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def fingerprints(folder: Path, models: list[ObjectModel]) -> dict[int, str]:
    """Return the SHA-256 of each object's codes.

    A network has learnt one table of codes, and another computation may give another table: the eigenvectors
    of a cube are not unique.
    """
    points = {model.id: load_surface(folder, model.id).points for model in models}
    return {i: hashlib.sha256(p.tobytes()).hexdigest() for i, p in points.items()}


def _drawn(path: Path) -> np.ndarray:
    mesh = trimesh.load(path, process=False, force="mesh")
    if not len(getattr(mesh, "faces", ())):
        raise ValueError(f"{path}: wanted a mesh with faces, found a point cloud")
    points = np.asarray(trimesh.sample.sample_surface(mesh, 1 << BITS, seed=0)[0]) * 1e-3
    return points[balanced_order(points)]


class CodeReader:
    """Finds the codes that pixels see: one search tree for each object's surface."""

    def __init__(self, models: list[ObjectModel], surfaces: dict[int, SurfaceCodes]):
        self.models = {model.id: model for model in models}
        self._trees = {i: cKDTree(surface.points) for i, surface in surfaces.items()}

    def fingerprint(self) -> str:
        """Changes with whatever codes depend on beside the pictures: surfaces, symmetries, limits."""
        digest = hashlib.sha256(repr((OFF, MOST_OFF, MAX_TIED)).encode())
        for i, tree in sorted(self._trees.items()):
            model = self.models[i]
            for values in ([i, model.diameter], tree.data, model.symmetries, model.reference):
                digest.update(np.asarray(values, np.float64).tobytes())
        return digest.hexdigest()

    def codes(self, labels: np.ndarray, depth: np.ndarray, K: np.ndarray, instances, where) -> np.ndarray:
        """Return code maps (R, H, W) uint16, one for each of the most representatives that any instance has;
        an instance with fewer repeats its first (see ``core.object_model.representatives``).

        labels (H, W): an instance's ``label`` where it is seen. depth (H, W) metres. where: names the image
        in the ValueError for a depth that does not fit mesh and pose.
        """
        known = [i for i in instances if i.object_id in self.models]
        poses = [representatives(i.T_camera_object, self.models[i.object_id])[:MAX_TIED] for i in known]
        maps = np.zeros((max(map(len, poses), default=1), *labels.shape), np.uint16)
        for instance, tied in zip(known, poses):
            v, u = np.nonzero(labels == instance.label)
            rays = np.c_[(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones(len(u))]
            points = rays * depth[v, u, None]
            for r in range(len(maps)):
                pose = tied[r if r < len(tied) else 0]
                maps[r, v, u] = self._nearest(instance.object_id, transform(inverse(pose), points), where)
        return maps

    def _nearest(self, object_id: int, points: np.ndarray, where) -> np.ndarray:
        gap, code = self._trees[object_id].query(points)
        off = float((gap > OFF * self.models[object_id].diameter).mean()) if len(gap) else 0.0
        if off > MOST_OFF:
            raise DatasetError(
                f"{where}: object {object_id}: wanted depth within {OFF:g} diameters of its mesh, found "
                f"{off:.0%} of its pixels beyond; render the depth (python -m training render --depth)",
                "depth",
            )
        return code


def code_reader(folder: Path, models: list[ObjectModel]) -> CodeReader:
    """Return the reader of a data set's objects, whose meshes lie in ``folder``."""
    return CodeReader(models, {model.id: load_surface(folder, model.id) for model in models})
