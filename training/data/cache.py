# SPDX-License-Identifier: Apache-2.0
"""Tiles on disk, memory-mapped: made once, shared by the runs of a table and the processes of a run."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from pose_kd_ros.core.object_model import ObjectModel

from . import tiles as recipe
from .tiles import Tile, TileInstance

VERSION = 2  # raise it when the same files and settings give other tiles, or the files below change
MAPS = {"pixels": (np.uint8, (3,)), "labels": (np.uint8, ()), "codes": (np.uint16, ())}
INSTANCE = [("object_id", int), ("T_camera_object", float, (4, 4)), ("visib_fract", float), ("label", int)]
INSTANCE += [("box_size", float)]
TILE = [("K", float, (3, 3)), ("wide", bool), ("instances", int), ("codes", int)]  # counts up to its end


def fingerprint(split: Path, models: list[ObjectModel], size: int, seed: int, codes: str = "") -> str:
    """Return a name for the tiles of a split.

    It changes with their settings, with any file of the split (name, size, time of change) and with
    ``codes``, what their surface codes depend on.
    """
    stats = [(str(p.relative_to(split)), p.stat()) for p in sorted(split.rglob("*")) if p.is_file()]
    files = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    objects = [(m.id, m.corners().tolist()) for m in models]
    settings = [VERSION, size, seed, recipe.REACH, recipe.WIDE_PX, recipe.WIDE_SHARE, codes]
    text = json.dumps([settings, objects, files])
    return f"{split.parent.name}-{split.name}-{size}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


class CachedTiles(Sequence[Tile]):
    """The tiles in ``folder``. about: what ``open_or_make`` was given to keep with them.

    Raises ValueError for a damaged folder.
    """

    def __init__(self, folder: Path):
        content = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        self.folder, self.about, side = folder, content["about"], content["size"]
        self.tiles, self.instances = (np.load(folder / f"{name}.npy") for name in ("tiles", "instances"))
        counts = {"pixels": len(self.tiles), "labels": len(self.tiles), "codes": int(self.tiles["codes"][-1])}
        self.maps = {}
        for name, (kind, extra) in MAPS.items():
            path, shape = folder / name, (counts[name], side, side, *extra)
            wanted, found = int(np.prod(shape)) * np.dtype(kind).itemsize, path.stat().st_size
            if found != wanted:
                raise ValueError(f"{path}: wanted {wanted} bytes, found {found}; remove {folder}")
            if wanted:
                self.maps[name] = np.asarray(np.memmap(path, kind, "r", shape=shape))

    def __reduce__(self):
        return CachedTiles, (self.folder,)  # a spawned worker gets the path, not a copy

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, index: int) -> Tile:  # type: ignore[override]  # no caller takes slices
        tile, before = self.tiles[index], self.tiles[index - 1] if index else np.zeros((), TILE)
        instances = self.instances[before["instances"] : tile["instances"]]
        codes = self.maps["codes"][before["codes"] : tile["codes"]] if "codes" in self.maps else None
        known = tuple(TileInstance(int(i), T, float(v), int(n), float(s)) for i, T, v, n, s in instances)
        wide = bool(tile["wide"])
        return Tile(self.maps["pixels"][index], self.maps["labels"][index], tile["K"], known, wide, codes)


def open_or_make(folder: Path, size: int, make: Callable[[], tuple[Iterable[Tile], Callable]]) -> CachedTiles:
    """Return the tiles in ``folder``; ``make`` gives them, and what to keep with them, if they are not there.

    They appear complete or not at all: one process makes them while the others on its machine wait, and the
    remains of a killed one are removed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(f"{folder.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed or the process ends
        if not folder.exists():
            part = folder.with_name(f"{folder.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            _write(part, size, *make())
            part.rename(folder)
    return CachedTiles(folder)


def _write(folder: Path, size: int, tiles: Iterable[Tile], about: Callable[[], dict]) -> None:
    rows, instances, codes = [], [], 0
    with open(folder / "pixels", "wb") as pixels, open(folder / "labels", "wb") as labels:
        with open(folder / "codes", "wb") as maps:
            for tile in tiles:
                pixels.write(tile.pixels.tobytes())
                labels.write(tile.labels.tobytes())
                if tile.codes is not None:
                    maps.write(tile.codes.tobytes())
                    codes += len(tile.codes)
                known = tile.instances
                instances += [
                    (i.object_id, i.T_camera_object, i.visib_fract, i.label, i.box_size) for i in known
                ]
                rows.append((tile.K, tile.wide, len(instances), codes))
    if not rows:
        raise ValueError(f"{folder}: wanted tiles, found no image of the split that can be used")
    np.save(folder / "tiles.npy", np.array(rows, TILE))
    np.save(folder / "instances.npy", np.array(instances, INSTANCE))
    content = json.dumps({"size": size, "about": about()}, indent=1)
    (folder / "about.json").write_text(content, encoding="utf-8")
