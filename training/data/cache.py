"""Tiles on disk, memory-mapped: made once, shared by the runs of a table and the processes of a run."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from pose_kd_ros.core.object_model import ObjectModel

from . import tiles as recipe
from .tiles import Tile, TileInstance

VERSION = 1  # raise it when the same files and settings give other tiles, or the files below change
CODES = "codes.u16"  # surface codes, as many maps a tile as its instances have representatives
_SIZES = {"pixels.u8": 3, "labels.u8": 1}  # bytes of a pixel in the memory-mapped files


def fingerprint(split: Path, models: list[ObjectModel], size: int, seed: int, codes: str = "") -> str:
    """A name for the tiles of a split: it changes with their settings, with any file of the split (name,
    size, time of change) and with ``codes``, what their surface codes depend on beside; "" without any."""
    files = sorted(
        (str(p.relative_to(split)), p.stat().st_size, p.stat().st_mtime_ns)
        for p in split.rglob("*")
        if p.is_file()
    )
    objects = [(m.id, m.corners().tolist()) for m in models]
    settings = [VERSION, size, seed, recipe.REACH, recipe.WIDE_PX, recipe.WIDE_SHARE, *filter(None, [codes])]
    text = json.dumps([settings, objects, files])
    return f"{split.parent.name}-{split.name}-{size}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


class CachedTiles(Sequence[Tile]):
    """The tiles in ``folder``; each process maps the files for itself. about: what ``open_or_make`` was given
    to keep with them. ValueError for a damaged folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        content = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        self.about, shape = content["about"], (content["tiles"], content["size"], content["size"])
        for name, channels in _SIZES.items():
            found, wanted = (folder / name).stat().st_size, int(np.prod(shape)) * channels
            if found != wanted:
                raise ValueError(f"{folder / name}: wants {wanted} bytes, got {found}; remove {folder}")
        self.pixels, self.labels = (
            np.asarray(np.memmap(folder / name, np.uint8, "r", shape=(*shape, *extra)))
            for name, extra in (("pixels.u8", (3,)), ("labels.u8", ()))
        )
        self.codes = self._open_codes((content.get("maps", 0), *shape[1:]))
        with np.load(folder / "rows.npz", allow_pickle=False) as rows:
            self.rows = dict(rows)

    def _open_codes(self, shape: tuple[int, int, int]) -> np.ndarray | None:
        if not shape[0]:  # not of the dense family
            return None
        path = self.folder / CODES
        if path.stat().st_size != 2 * int(np.prod(shape)):
            wanted = 2 * int(np.prod(shape))
            raise ValueError(f"{path}: wants {wanted} bytes, got {path.stat().st_size}; remove {self.folder}")
        return np.asarray(np.memmap(path, np.uint16, "r", shape=shape))

    def __reduce__(self):
        return CachedTiles, (self.folder,)  # a spawned worker is told where they are, not sent a copy

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Tile:
        rows, wide = self.rows, int(self.rows["wide"][index])
        here = range(rows["first"][index], rows["first"][index + 1])
        instances = tuple(
            TileInstance(
                int(rows["object_id"][i]),
                rows["T_camera_object"][i],
                float(rows["visib_fract"][i]),
                int(rows["label"][i]),
                float(rows["box_size"][i]),
            )
            for i in here
        )
        codes = None
        if self.codes is not None:
            codes = self.codes[rows["first_map"][index] : rows["first_map"][index + 1]]
        return Tile(self.pixels[index], self.labels[index], rows["K"][index], instances, bool(wide), codes)


def open_or_make(folder: Path, size: int, make: Callable[[], tuple[Iterable[Tile], Callable]]) -> CachedTiles:
    """The tiles in ``folder``; ``make`` gives them, and what to keep with them, if they are not there yet.

    They appear complete or not at all: of several processes one makes them while the others wait, and what a
    killed one left is made anew.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(folder.with_name(f"{folder.name}.lock")):
        if not folder.exists():
            part = folder.with_name(f"{folder.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            _write(part, size, *make())
            os.replace(part, folder)
    return CachedTiles(folder)


@contextmanager
def _alone(lock: Path):
    """One process at a time, on one machine; the lock ends with the process that holds it."""
    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write(folder: Path, size: int, tiles: Iterable[Tile], about: Callable[[], dict]) -> None:
    kept, maps = [], [0]
    names = "pixels.u8", "labels.u8", CODES
    with ExitStack() as stack:
        pixels, labels, codes = (stack.enter_context(open(folder / name, "wb")) for name in names)
        for tile in tiles:
            pixels.write(tile.pixels.tobytes())
            labels.write(tile.labels.tobytes())
            if tile.codes is not None:
                codes.write(tile.codes.tobytes())
            maps.append(maps[-1] + (0 if tile.codes is None else len(tile.codes)))
            kept.append((tile.K, tile.wide, tile.instances))
    if not kept:
        raise ValueError(f"{folder}: no tiles: no image of the split can be used")
    _write_rows(folder / "rows.npz", kept, maps)
    content = {"tiles": len(kept), "maps": maps[-1], "size": size, "about": about()}
    (folder / "about.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def _write_rows(path: Path, kept: list[tuple[np.ndarray, bool, tuple[TileInstance, ...]]], maps) -> None:
    instances = [i for _, _, here in kept for i in here]
    np.savez(
        path,
        K=np.stack([K for K, _, _ in kept]),
        wide=np.array([wide for _, wide, _ in kept]),
        first=np.cumsum([0, *(len(here) for _, _, here in kept)]),
        first_map=np.array(maps),
        object_id=np.array([i.object_id for i in instances], np.int64),
        T_camera_object=np.array([i.T_camera_object for i in instances]).reshape(-1, 4, 4),
        visib_fract=np.array([i.visib_fract for i in instances], np.float64),
        label=np.array([i.label for i in instances], np.int64),
        box_size=np.array([i.box_size for i in instances], np.float64),
    )
