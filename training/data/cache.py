# SPDX-License-Identifier: Apache-2.0
"""Tiles on disk, memory-mapped: made once, shared by the runs of a table and the processes of a run."""

from __future__ import annotations

import fcntl
import hashlib
import json
import pickle
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from pose_kd_ros.core.object_model import ObjectModel

from . import tiles as recipe
from .tiles import Tile

VERSION = 3  # raise it when the same files and settings give other tiles, or a tile has other fields


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
    """The tiles in ``folder``: pickles one after the other, and where each ends.

    about: what ``open_or_make`` was given to keep with them. Raises ValueError for a damaged folder.
    """

    def __init__(self, folder: Path):
        self.folder, self.about = folder, json.loads((folder / "about.json").read_text(encoding="utf-8"))
        self.ends, path = np.load(folder / "ends.npy"), folder / "tiles"
        wanted, found = int(self.ends[-1]), path.stat().st_size
        if found != wanted:
            raise ValueError(f"{path}: wanted {wanted} bytes, found {found}; remove {folder}")
        self.bytes = np.memmap(path, np.uint8, "r")

    def __reduce__(self):
        return CachedTiles, (self.folder,)  # a spawned worker gets the path, not a copy

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> Tile:
        start = self.ends[index - 1] if index else 0
        return pickle.loads(self.bytes[start : self.ends[index]])


def open_or_make(folder: Path, make: Callable[[], tuple[Iterable[Tile], Callable]]) -> CachedTiles:
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
            _write(part, *make())
            part.rename(folder)
    return CachedTiles(folder)


def _write(folder: Path, tiles: Iterable[Tile], about: Callable[[], dict]) -> None:
    ends = []
    with open(folder / "tiles", "wb") as file:
        for tile in tiles:
            pickle.dump(tile, file, pickle.HIGHEST_PROTOCOL)
            ends.append(file.tell())
    if not ends:
        raise ValueError(f"{folder}: wanted tiles, found no image of the split that can be used")
    np.save(folder / "ends.npy", np.array(ends))
    (folder / "about.json").write_text(json.dumps(about(), indent=1), encoding="utf-8")
