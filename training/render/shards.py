# SPDX-License-Identifier: Apache-2.0
"""Render a split in shards that are independent of each other, for any job array, and merge them.

A shard lies beside the split, under the split's name with ``.shard-i-of-n`` added.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from pose_kd_ros.provenance import write_whole

from .dataset import is_complete, scenes_of
from .files import read_object


@dataclass(frozen=True)
class Shard:
    """Part ``index`` (from 0) of ``count``."""

    index: int = 0
    count: int = 1

    def __post_init__(self):
        if not 0 <= self.index < self.count:
            raise ValueError(f"shard: wanted i/n with 0 <= i < n, found {self.index}/{self.count}")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Parse "i/n". Convention: 0/2 and 1/2 are the halves."""
        if not (parts := re.fullmatch(r"(\d+)/(\d+)", text)):
            raise ValueError(f"--shard: wanted i/n, such as 0/4, found {text}")
        return cls(*map(int, parts.groups()))

    def of(self, whole: Path) -> Path:
        """Return the folder of this part of a split; the split itself if it is all of it."""
        if self.count == 1:
            return whole
        return whole.with_name(f"{whole.name}.shard-{self.index}-of-{self.count}")


def shards_of(split: Path) -> list[Shard]:
    """Return all shards of a split; raise ValueError, naming what is missing, unless all of one
    division are there."""
    found = list(split.parent.glob(f"{split.name}.shard-*-of-*"))
    counts = {int(path.name.rsplit("-", 1)[1]) for path in found}
    if len(counts) != 1:
        names = sorted(path.name for path in found)
        raise ValueError(f"{split}: wanted shards of one division beside it, found {names}")
    shards = [Shard(index, *counts) for index in range(*counts)]
    missing = [shard.of(split).name for shard in shards if not shard.of(split).exists()]
    if missing:
        raise ValueError(f"{split}: wanted all shards, found none of {', '.join(missing)}; run these first")
    return shards


def _refuse_other(split: Path, recipe: dict, scenes: set[str]) -> None:
    """Raise ValueError if the folder holds renders that are not those of the shards."""
    there = {p.name for p in split.glob("*") if p.is_dir() and p.name.isdigit()}
    path = split / "render.json"
    if there and (not path.exists() or read_object(path) != recipe or there - scenes):
        raise ValueError(f"{split}: wanted no renders but the shards', found others; move them away")


def merge(split: Path) -> str:
    """Move the scenes of all shards into the split's folder, which then is what one run would have written.

    A merge that was killed goes on. Raises ValueError naming what is missing or does not fit; returns a
    line to print.
    """
    folders = [shard.of(split) for shard in shards_of(split)]
    requests = [read_object(folder / "shard.json") for folder in folders]
    recipes = [read_object(folder / "render.json") for folder in folders]
    for folder, request, recipe in zip(folders, requests, recipes):
        if (request, recipe) != (requests[0], recipes[0]):
            raise ValueError(f"{folder}: wanted the settings of {folders[0]}, found others")
    scenes = scenes_of(requests[0]["count"], recipes[0]["images_per_scene"])
    _refuse_other(split, recipes[0], {f"{number:06d}" for number, _ in scenes})
    sources = []
    for number, indices in scenes:
        name, folder = f"{number:06d}", folders[number % len(folders)]
        if not is_complete(split / name, len(indices)):
            if not is_complete(folder / name, len(indices)):
                raise ValueError(f"{folder}: wanted scene {name}, found it unfinished; run this shard again")
            sources.append(folder / name)
    split.mkdir(parents=True, exist_ok=True)
    write_whole(split / "render.json", json.dumps(recipes[0], indent=1) + "\n")
    for source in sources:
        source.rename(split / source.name)
    for folder in folders:
        shutil.rmtree(folder)
    return f"{split}: {requests[0]['count']} images in {len(scenes)} scenes of {len(folders)} shards"
