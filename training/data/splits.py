# SPDX-License-Identifier: Apache-2.0
"""Load a split from disk for ``CropDataset``: as BOP images, as tiles in memory, or as tiles in a cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pose_kd_ros.core.object_model import ObjectModel
from pose_kd_ros.datasets.bop import BopDataset, BopImage
from pose_kd_ros.datasets.faults import DatasetError, Faults

from .cache import CachedTiles, fingerprint, open_or_make
from .surface import CodeReader
from .teachable import check_teachable
from .tiles import Tile, check_labels, make_tiles


def load_split(
    split: Path,
    models: list[ObjectModel],
    faults: Faults,
    tile_px: int = 0,
    seed: int = 0,
    cache: Path | None = None,
    reader: CodeReader | None = None,
) -> Sequence[BopImage | Tile]:
    """Return the split's images, whole, or as tiles of ``tile_px`` that are kept in memory or in ``cache``;
    with a reader tiles have surface codes.

    Prints what was skipped. Raises DatasetError, as ``faults`` says, for what is missing or damaged.
    """
    if tile_px and cache:
        tiles = _from_cache(cache, split, models, faults, tile_px, seed, reader)
        _say(split, faults, tiles.about["images"])
        return tiles
    images = trainable(split, models, faults)
    total = len(images) + faults.images
    found = list(make_tiles(images, models, tile_px, seed, faults, reader)) if tile_px else images
    _say(split, faults, total)
    return found


def trainable(split: Path, models: list[ObjectModel], faults: Faults) -> list[BopImage]:
    """Return the images of a split whose json files say all that training asks for."""
    ids, images = {model.id for model in models}, []
    for image in BopDataset(split, faults).images:
        try:
            check_labels(image, ids)
            images.append(image)
        except DatasetError as error:
            faults.add(error)
    if images:
        check_teachable(split, images, models)
    return images


def _from_cache(
    cache: Path,
    split: Path,
    models: list[ObjectModel],
    faults: Faults,
    tile_px: int,
    seed: int,
    reader: CodeReader | None,
) -> CachedTiles:
    """Return the split's tiles from the cache. The faults of the run that made them are added to ``faults``,
    since this run may refuse them."""

    def make():
        images = trainable(split, models, faults)
        total = len(images) + faults.images
        tiles = make_tiles(images, models, tile_px, seed, faults, reader)
        return tiles, lambda: {"images": total, "faults": faults.kinds}

    name = fingerprint(split, models, tile_px, seed, reader.fingerprint() if reader else "")
    tiles = open_or_make(cache / name, tile_px, make)
    for message, kind in tiles.about["faults"].items():
        faults.add(DatasetError(message, kind))
    return tiles


def _say(split: Path, faults: Faults, total: int) -> None:
    if faults.kinds:
        print(f"{split}: {faults.summary(total)}", flush=True)
