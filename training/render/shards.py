"""Work cut into shards that know nothing of each other, for any job array; and one command that merges them.

A shard keeps its part beside what it is a part of, under the name of the whole with ``.shard-i-of-n`` in it.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from ..render.dataset import is_complete, scenes_of
from ..render.files import read_object, write_whole
from .table import keep, with_means


@dataclass(frozen=True)
class Shard:
    """Part ``index`` (from 0) of ``count``."""

    index: int = 0
    count: int = 1

    def __post_init__(self):
        if not 0 <= self.index < self.count:
            raise ValueError(f"shard {self.index}/{self.count}: wants i/n with 0 <= i < n")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From "i/n"; Convention: 0/2 and 1/2 are the halves."""
        if not (parts := re.fullmatch(r"(\d+)/(\d+)", text)):
            raise ValueError(f"--shard {text}: wants i/n, such as 0/4")
        return cls(*map(int, parts.groups()))

    def of(self, whole: Path) -> Path:
        """Where this part of a file or folder is kept; the whole itself if it is all of it."""
        if self.count == 1:
            return whole
        return whole.with_name(f"{whole.stem}.shard-{self.index}-of-{self.count}{whole.suffix}")


def shards_of(whole: Path) -> list[Shard]:
    """All shards, of as many as the one that lies beside ``whole`` says; raises ValueError naming those that
    are missing, or if there are none or of several divisions."""
    found = list(whole.parent.glob(f"{whole.stem}.shard-*-of-*{whole.suffix}"))
    counts = {int(path.name.removesuffix(whole.suffix).rsplit("-", 1)[1]) for path in found}
    if len(counts) != 1:
        raise ValueError(
            f"{whole}: wants shards of one division beside it, found {sorted(p.name for p in found)}"
        )
    shards = [Shard(index, *counts) for index in range(*counts)]
    missing = [shard.of(whole).name for shard in shards if not shard.of(whole).exists()]
    if missing:
        raise ValueError(f"{whole}: missing {', '.join(missing)}; run these shards first")
    return shards


def merge(whole: Path) -> str:
    """Merge the shards of a table (a .json file) or of a rendered split (a folder): what one run would have
    written. Raises ValueError naming what is missing or does not fit; returns a line to print."""
    return merge_table(whole) if whole.suffix == ".json" else merge_split(whole)


def merge_table(out: Path) -> str:
    parts = {shard.of(out): read_object(shard.of(out)) for shard in shards_of(out)}
    placed = {tuple(place): row for part in parts.values() for place, row in part["rows"]}
    wanted = {part["rows_in_all"] for part in parts.values()}
    if wanted != {len(placed)}:
        raise ValueError(f"{out}: shards of tables of {sorted(wanted)} rows, found {len(placed)} in all")
    keep(out, with_means([placed[place] for place in sorted(placed)]))
    return f"{out}: {len(placed)} rows of {len(parts)} shards"


def _refuse_other(split: Path, recipe: dict, scenes: set[str]) -> None:
    """Raise ValueError if the folder holds renders that are not those of the shards."""
    there = {p.name for p in split.glob("*") if p.is_dir() and p.name.isdigit()}
    path = split / "render.json"
    if there and (not path.exists() or read_object(path) != recipe or there - scenes):
        raise ValueError(f"{split}: holds other renders than the shards'; move it away, then merge again")


def merge_split(split: Path) -> str:
    """Move the scenes of all shards into the split's folder; a merge that was killed goes on."""
    folders = [shard.of(split) for shard in shards_of(split)]
    asked = [read_object(folder / "shard.json") for folder in folders]
    recipes = [read_object(folder / "render.json") for folder in folders]
    for folder, ask, recipe in zip(folders, asked, recipes):
        if (ask, recipe) != (asked[0], recipes[0]):
            raise ValueError(f"{folder}: rendered with other settings than {folders[0]}")
    scenes = scenes_of(asked[0]["count"], recipes[0]["images_per_scene"])
    _refuse_other(split, recipes[0], {f"{number:06d}" for number, _ in scenes})
    sources = []
    for number, indices in scenes:
        name, folder = f"{number:06d}", folders[number % len(folders)]
        if not is_complete(split / name, len(indices)):
            if not is_complete(folder / name, len(indices)):
                raise ValueError(f"{folder}: scene {name} is not finished; run this shard again")
            sources.append(folder / name)
    split.mkdir(parents=True, exist_ok=True)
    write_whole(split / "render.json", json.dumps(recipes[0], indent=1) + "\n")
    for source in sources:
        source.rename(split / source.name)
    for folder in folders:
        shutil.rmtree(folder)
    return f"{split}: {asked[0]['count']} images in {len(scenes)} scenes of {len(folders)} shards"
