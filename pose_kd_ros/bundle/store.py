# SPDX-License-Identifier: Apache-2.0
"""Bundles on disk: written whole or not at all, opened only when every file is what the manifest says."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.mesh import Mesh
from ..core.object_model import ObjectModel
from ..core.surface import SurfaceCodes
from .manifest import BundleError, Manifest, check_locator, mesh_file, parse, surface_file

MANIFEST = "manifest.json"
LOCATOR = "locator"  # folder in a bundle: the bundle that finds its objects
MOST_MANIFEST = 2**24  # bytes
MOST_ARRAYS = 2**30  # bytes of a file's arrays, uncompressed
MOST_FACES = 4000  # of a mesh; each frame looks at all of them
FILLS = 0.5  # of its box's sides a mesh must span: one in metres that was read as millimetres does not
OUTSIDE = 0.02  # of the object's diameter: a mesh may reach so far beyond its box
CHUNK = 2**20  # bytes


@dataclass(frozen=True)
class Bundle:
    """An opened, verified bundle. locator: the bundle in it that finds its objects, if there is one."""

    folder: Path
    manifest: Manifest
    objects: tuple[ObjectModel, ...]
    locator: Bundle | None = None

    @property
    def network_path(self) -> Path:
        return self.folder / self.manifest.network.file

    def golden(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The replayed sample: input (1, 3, H, W) float32 and the outputs by name."""
        spec = self.manifest.golden
        return golden_input(spec.seed, spec.height, spec.width), self._arrays(spec.file)

    def surface(self, object_id: int) -> SurfaceCodes:
        """The surface points by code of an object of a dense bundle."""
        name = surface_file(object_id)
        try:
            return SurfaceCodes(self._arrays(name)["points"])
        except (KeyError, ValueError) as error:
            raise BundleError(f"{self.folder / name}: {error}") from error

    def mesh(self, object_id: int) -> Mesh | None:
        """The mesh of an object, metres; None where the bundle has none."""
        name = mesh_file(object_id)
        if name not in self.manifest.files:
            return None
        try:
            arrays = self._arrays(name)
            if set(arrays) != {"vertices", "triangles", "sharp"}:
                raise ValueError(f"wanted vertices, triangles and sharp, found {sorted(arrays)[:5]}")
            for key, array in arrays.items():
                if array.ndim != 2 or len(array) > 3 * MOST_FACES:
                    raise ValueError(f"{key}: wanted at most {3 * MOST_FACES} rows, found {array.shape}")
            mesh = Mesh(**arrays)
            (model,) = (each for each in self.objects if each.id == object_id)
            beyond = np.abs(mesh.vertices - model.box_center).max(0) - model.box_size / 2
            if beyond.max() > OUTSIDE * model.diameter or len(mesh.triangles) > MOST_FACES:
                found = f"{len(mesh.triangles)} triangles, {1e3 * beyond.max():.3g} mm beyond it"
                raise ValueError(f"wanted at most {MOST_FACES} triangles in the object's box, found {found}")
            spans = np.ptp(mesh.vertices, axis=0)
            if (spans < FILLS * model.box_size).any():
                sizes = (" x ".join(f"{1e3 * side:.3g}" for side in of) for of in (model.box_size, spans))
                raise ValueError("wanted a mesh that fills the box of {} mm, found {} mm".format(*sizes))
            return mesh
        except (TypeError, ValueError) as error:
            raise BundleError(f"{self.folder / name}: {error}") from error

    def _arrays(self, name: str) -> dict[str, np.ndarray]:
        try:
            with zipfile.ZipFile(self.folder / name) as members:
                size = sum(member.file_size for member in members.infolist())
            if size > MOST_ARRAYS:
                raise ValueError(f"wanted at most {MOST_ARRAYS} bytes of arrays, found {size}")
            with np.load(self.folder / name, allow_pickle=False) as stored:
                return {key: stored[key] for key in stored.files}
        except Exception as error:  # of zipfile, zlib, NumPy's header: no common base class
            raise BundleError(f"{self.folder / name}: not a plain npz ({error})") from error


def golden_input(seed: int, height: int, width: int) -> np.ndarray:
    """Return a procedural input (1, 3, height, width) float32: seeded noise over
    gradients, the same everywhere."""
    state = np.random.RandomState(seed)  # its stream is frozen across NumPy versions, a Generator's is not
    v, u = np.mgrid[0:height, 0:width]
    waves = np.stack([np.sin(u / 7.0), np.cos(v / 11.0), np.sin((u + v) / 17.0)])
    return (waves + 0.3 * state.standard_normal((3, height, width)))[None].astype(np.float32)


def sha256(path: Path) -> str:
    """Return the file's SHA-256 in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def open_bundle(folder: Path | str) -> Bundle:
    """Open and verify a bundle folder, with its locator; raises BundleError that
    names the file and the reason."""
    folder = Path(folder)
    manifest = _read_manifest(folder)
    for name, wanted in manifest.files.items():
        _verify(folder, name, wanted)
    locator = None if manifest.locator is None else _open_locator(folder, manifest)
    known = {*manifest.files, MANIFEST, *([LOCATOR] if manifest.locator is not None else [])}
    if extra := sorted({path.name for path in folder.iterdir()} - known):
        raise BundleError(f"{folder}: wanted only the files that {MANIFEST} lists, found {extra[:5]}")
    try:
        objects = tuple(spec.model() for spec in manifest.objects)
    except BundleError as error:
        raise BundleError(f"{folder / MANIFEST}: {error}") from error
    return Bundle(folder, manifest, objects, locator)


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    if not path.is_file():
        raise BundleError(f"{folder}: not a bundle (no {MANIFEST})")
    if path.stat().st_size > MOST_MANIFEST:
        raise BundleError(f"{path}: wanted at most {MOST_MANIFEST} bytes, found {path.stat().st_size}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: not JSON ({error})") from error
    try:
        return parse(content)
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from error


def _open_locator(folder: Path, manifest: Manifest) -> Bundle:
    """Open the locator that the manifest names. Its own manifest is checked first, so that
    no locator's locator is opened."""
    place = folder / LOCATOR
    path = place / MANIFEST
    if place.is_symlink() or not path.is_file():
        found = "a link" if place.is_symlink() else "none"
        raise BundleError(f"{path}: wanted the locator that {folder / MANIFEST} names, found {found}")
    if sha256(path) != manifest.locator:
        wanted, found = str(manifest.locator)[:12], sha256(path)[:12]
        raise BundleError(f"{path}: damaged or exchanged: wanted SHA-256 {wanted}..., found {found}...")
    theirs = _read_manifest(place)
    try:
        check_locator(theirs.family, [o.id for o in theirs.objects], [o.id for o in manifest.objects])
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from error
    return open_bundle(place)


def _verify(folder: Path, name: str, wanted: str) -> None:
    path = folder / name
    if Path(name).name != name or not name.isprintable() or path.is_symlink():
        raise BundleError(f"{folder / MANIFEST}: files: {name!r} points outside the bundle")
    if not path.is_file():
        raise BundleError(f"{path}: missing, but listed in {MANIFEST}")
    found = sha256(path)
    if found != wanted:
        raise BundleError(
            f"{path}: damaged or exchanged: SHA-256 is {found[:12]}..., {MANIFEST} says {wanted[:12]}..."
        )


def write_bundle(
    folder: Path | str, manifest: Manifest, files: dict[str, Path], locator: Bundle | None = None
) -> Bundle:
    """Write ``files`` (name in the bundle -> source path), the locator, if there is one, and the manifest,
    with their hashes, as ``folder``.

    Everything goes to a temporary folder beside it that is renamed at the end: a full disk or a kill leaves
    the old bundle, if there was one, as it was (a kill in the moment between two renames: as ``.<name>.old``
    beside it). Returns the bundle as opened from disk.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for name, source in files.items():
            shutil.copyfile(source, temporary / name)
        hashes = {name: sha256(temporary / name) for name in sorted(files)}
        finder = _copy_bundle(locator, temporary / LOCATOR) if locator else None
        manifest = dataclasses.replace(manifest, files=hashes, locator=finder)
        text = json.dumps(dataclasses.asdict(manifest), indent=1)
        (temporary / MANIFEST).write_text(text + "\n", encoding="utf-8")
        open_bundle(temporary)
        temporary.chmod(0o755)
        _swap(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return open_bundle(folder)


def _copy_bundle(bundle: Bundle, folder: Path) -> str:
    """Copy what the bundle's manifest names, and it, to a new folder; return the manifest's SHA-256."""
    folder.mkdir()
    for name in (*bundle.manifest.files, MANIFEST):
        shutil.copyfile(bundle.folder / name, folder / name)
    return sha256(folder / MANIFEST)


def _swap(new: Path, folder: Path) -> None:
    """Put ``new`` in ``folder``'s place; a folder cannot be renamed over a full
    one, so the old one steps aside."""
    aside = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    if folder.exists():
        os.replace(folder, aside)
    os.replace(new, folder)
    shutil.rmtree(aside, ignore_errors=True)
