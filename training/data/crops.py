# SPDX-License-Identifier: Apache-2.0
"""A BOP data set as an endless, seeded stream of training crops: sample i is the same on every
machine and restart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset

from pose_kd_ros.core.camera import Crop
from pose_kd_ros.core.object_model import ObjectModel
from pose_kd_ros.datasets.bop import BopImage, BopInstance
from pose_kd_ros.datasets.faults import DatasetError, Faults

from .paste import PasteConfig, Paster
from .tiles import Tile, TileInstance, model_box, read_tile, rolled
from .turns import Turns, shuffled


@dataclass(frozen=True)
class CropConfig:
    """Which part of an image a training sample shows."""

    size: int = 256
    """Side of the square network input, pixels."""
    margin: float = 1.5
    """Side of the region around an object, in units of its box, as the node cuts it around a track."""
    scale_jitter: float = 0.35
    """The side of the region is multiplied by a factor of up to 1 +- this."""
    shift_jitter: float = 0.25
    """The centre of the region moves by up to this share of the box."""
    search_share: float = 0.35
    """Share of samples that show a wide, random part of an image or a wide tile, as the search does. Heatmap
    family, which does not search: the largest share of samples without an object."""
    search_px: tuple[float, float] = (256.0, 704.0)
    """Side of the wide part, image pixels."""
    min_visibility: float = 0.15
    """Objects with a smaller visible share are ignored: they are neither background nor do they vote."""
    cells: Literal["all", "draw"] = "all"
    """Keypoint family: the cells in an object's mask that vote. draw: n_l random cells of level l, the
    papers' quota (``core.cells.cells_per_level``). all: every cell, with the weight n_l / |cells of level l
    in the mask|, at most 1, which is the mean over all draws."""
    roll_deg: float = 0.0
    """Turn the camera about its optical axis by up to +- this, which gives more exact poses from a render.
    Not for the dense family."""
    paste: PasteConfig = field(default_factory=PasteConfig)

    def __post_init__(self):
        if not 0 <= self.search_share <= 1:
            raise ValueError(f"CropConfig.search_share: wanted 0 to 1, found {self.search_share}")


def around_object(box: np.ndarray, config: CropConfig, rng: np.random.Generator) -> Crop:
    """Return a jittered square around a box (x0, y0, x1, y1)."""
    side = max(box[2:] - box[:2])
    center = (box[:2] + box[2:]) / 2 + rng.uniform(-1, 1, 2) * config.shift_jitter * side
    side *= config.margin * (1 + rng.uniform(-1, 1) * config.scale_jitter)
    left, top = center - side / 2 + 0.5
    return Crop(left, top, config.size / side, config.size, config.size)


def anywhere(tile: Tile, config: CropConfig, rng: np.random.Generator) -> Crop:
    """A wide square that overlaps the image, its sides free; of a tile, a large part of it."""
    height, width = tile.labels.shape
    side = (
        np.exp(rng.uniform(*np.log(config.search_px)))
        if tile.wide is None
        else width * rng.uniform(0.6, 1.05)
    )
    left, top = (rng.uniform(min(0.0, extent - side), max(0.0, extent - side)) for extent in (width, height))
    return Crop(left, top, config.size / side, config.size, config.size)


class Targets(Protocol):
    """What a family's networks learn from a crop (Protocol)."""

    always_an_object: bool
    """Whether every crop is about an object, if the image shows one."""
    needs_depth: bool
    """Whether images are read with their depth."""

    def make(self, view: CropView, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """Return the targets of one crop."""

    def collate(self, samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Return a batch of samples."""


@dataclass(frozen=True)
class CropView:
    """A crop of a tile and the objects in the tile.

    about: the instance that the crop is about; None for a crop that was chosen without regard to objects.
    used: of each instance, whether it is visible enough to be learnt.
    """

    tile: Tile
    crop: Crop
    instances: list[TileInstance]
    used: list[bool]
    about: TileInstance | None


class CropDataset(Dataset):
    """Crops of images with their targets; ``dataset[i]`` for any i >= 0. Every epoch is shuffled differently.

    images: BOP images, read when they are needed, or tiles of them that are in memory already
    (``data.tiles``). faults: what to do with an image that cannot be read: raise DatasetError, or show the
    next one of the epoch that can be, so that a sample depends on the seed, its number and the data alone.
    source: names the data set in messages.
    """

    def __init__(
        self,
        images: Sequence[BopImage | Tile],
        models: list[ObjectModel],
        targets: Targets,
        config: CropConfig,
        seed: int,
        faults: Faults | None = None,
        source: Path = Path("."),
    ):
        if not images:
            raise ValueError(f"{source}: wanted images, found an empty split")
        self.images, self.models, self.targets, self.config, self.seed = images, models, targets, config, seed
        self.class_of = {model.id: index for index, model in enumerate(models)}
        self.faults, self.source, self.collate = faults or Faults(), source, targets.collate
        self.numbers = self._numbers()
        self.turns = self._turns()
        self.paster = Paster(config.paste) if config.paste.share else None

    @property
    def count(self) -> int:
        """Number of images that were read without a fault."""
        return len(self.images)

    def _numbers(self) -> np.ndarray:
        """Return the numbers of the images that samples are cut from. For targets that need an object, nearly
        all show one."""
        everything = np.arange(len(self.images))
        if not self.targets.always_an_object:
            return everything
        shown = self._shown()
        if not shown.any():
            raise ValueError(
                f"{self.source}: wanted an object to train on, found none in {len(shown)} images"
            )
        share = self.config.search_share
        empties = int(shown.sum() * share / (1 - share)) if share < 1 else len(shown)
        return np.sort(np.concatenate([everything[shown], everything[~shown][:empties]]))

    def _shown(self) -> np.ndarray:
        """Return which images (N,) bool show an object that is visible enough."""
        return np.array([any(self._known(i) and self._used(i) for i in one.instances) for one in self.images])

    def _turns(self) -> Turns | None:
        """Return which tiles samples show, without those about objects that are hidden too much. None for
        whole images, which ``_choose`` cuts, and for targets that need an object."""
        if self.targets.always_an_object or not isinstance(self.images[0], Tile):
            return None
        wide = np.array([isinstance(tile, Tile) and bool(tile.wide) for tile in self.images])
        shown = self._shown()
        about = np.flatnonzero(~wide & shown)
        return Turns(about, np.flatnonzero(wide), self.config.search_share, self.seed)

    def _order(self, epoch: int) -> np.ndarray:
        return self.numbers[shuffled(len(self.numbers), self.seed, 0, epoch)]

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        for number in self._candidates(index):
            image = self.images[number]
            try:
                tile = (
                    image
                    if isinstance(image, Tile)
                    else read_tile(image, self.class_of, self.targets.needs_depth)
                )
                return self.sample(tile, np.random.default_rng((self.seed, 1, index)))
            except DatasetError as error:
                self.faults.add(error)
        raise DatasetError(
            f"{self.source}: wanted a readable image, found none in {len(self.images)}", "picture"
        )

    def _candidates(self, index: int) -> Iterable[int]:
        """Return the numbers of images for a sample, in the order in which they are tried: its tile, or all
        images from the sample's place in the epoch on."""
        if self.turns:
            return [self.turns.number(index)]
        epoch, position = divmod(index, len(self.numbers))
        return np.roll(self._order(epoch), -position)

    def sample(self, tile: Tile, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """Return ``image`` (3, size, size) uint8 RGB and the targets of one random crop."""
        if self.config.roll_deg:
            angle = np.radians(rng.uniform(-1, 1) * self.config.roll_deg)
            tile = rolled(tile, angle, {model.id: model for model in self.models})
        if self.paster:
            tile = self.paster(tile, rng)
        known = [i for i in tile.instances if self._known(i)]
        crop, about = self._choose(tile, known, rng)
        view = CropView(tile, crop, known, [self._used(i) for i in known], about)
        pixels = torch.from_numpy(crop.apply(tile.pixels).transpose(2, 0, 1).copy())
        return {"image": pixels, **self.targets.make(view, rng)}

    def _known(self, instance: TileInstance | BopInstance) -> bool:
        return instance.object_id in self.class_of

    def _used(self, instance: TileInstance | BopInstance) -> bool:
        return instance.visib_fract >= self.config.min_visibility

    def _choose(
        self, tile: Tile, known: list[TileInstance], rng: np.random.Generator
    ) -> tuple[Crop, TileInstance | None]:
        """Return the crop and the instance that it is about, if any."""
        visible = [i for i in known if self._used(i)]
        searches = not self.targets.always_an_object
        if (
            not visible
            or (searches and tile.wide is True)
            or (searches and tile.wide is None and rng.random() < self.config.search_share)
        ):
            return anywhere(tile, self.config, rng), None
        chosen = visible[rng.integers(len(visible))]
        model = self.models[self.class_of[chosen.object_id]]
        return around_object(model_box(chosen.T_camera_object, model, tile.K), self.config, rng), chosen
