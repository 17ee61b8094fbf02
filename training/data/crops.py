"""A BOP data set as an endless, seeded stream of training crops: sample i is the same on every machine and
restart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from pose_kd_ros.core.camera import Crop
from pose_kd_ros.core.object_model import ObjectModel, representatives
from pose_kd_ros.datasets.bop import BopImage, BopInstance
from pose_kd_ros.datasets.faults import DatasetError, Faults

from .dense_targets import collate_dense, make_dense_targets
from .heatmap_targets import collate_points, make_points
from .paste import PasteConfig, Paster
from .surface import CodeReader
from .targets import MAX_TIED, Instance, collate, make_targets
from .tiles import Tile, TileInstance, model_box, nearest, read_tile, rolled
from .turns import Turns, shuffled


@dataclass(frozen=True)
class CropConfig:
    """Which part of an image a training sample shows."""

    size: int = 256
    """Side of the square network input, pixels."""
    margin: float = 1.5
    """Side of the region about an object, in units of its box: what the node cuts around a track."""
    scale_jitter: float = 0.35
    """The region's side is multiplied by up to 1 +- this."""
    shift_jitter: float = 0.25
    """The region's centre moves by up to this share of the box."""
    search_share: float = 0.35
    """Share of samples that show a wide, random part of an image instead, as the search without a track
    does; with tiles, a wide tile. Of the heatmap family, which does not search: at most so many show no
    object."""
    search_px: tuple[float, float] = (256.0, 704.0)
    """Side of that wide part in image pixels."""
    min_visibility: float = 0.15
    """Objects seen less than this are ignored: neither background nor asked to vote."""
    cells: Literal["all", "draw"] = "all"
    """Keypoint family, cells in an object's mask that vote. all: every one, of level l with the weight n_l /
    |cells of level l in the mask|, n_l the papers' quota (``core.cells.cells_per_level``) and at most that
    many. draw: n_l random ones and no others, as in the papers, of which this is the mean."""
    roll_deg: float = 0.0
    """The camera is turned about its optical axis by up to +- this: other poses from the same render, exact
    ones. Not of the dense family."""
    paste: PasteConfig = field(default_factory=PasteConfig)

    def __post_init__(self):
        if not 0 <= self.search_share <= 1:
            raise ValueError(f"CropConfig.search_share: wanted 0 to 1, found {self.search_share}")


def around_object(box: np.ndarray, config: CropConfig, rng: np.random.Generator) -> Crop:
    """A jittered square about a box (x0, y0, x1, y1)."""
    side = max(box[2:] - box[:2])
    center = (box[:2] + box[2:]) / 2 + rng.uniform(-1, 1, 2) * config.shift_jitter * side
    side *= config.margin * (1 + rng.uniform(-1, 1) * config.scale_jitter)
    return Crop(*(center - side / 2 + 0.5), config.size / side, config.size, config.size)


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


class CropDataset(Dataset):
    """Crops of images with their targets; ``dataset[i]`` for any i >= 0, epoch after epoch, each shuffled
    anew.

    images: BOP images, read when they are needed, or tiles of them that are in memory already
    (``data.tiles``). faults: what to do with an image that cannot be read: raise DatasetError, or show the
    next one of the epoch that can be, so that a sample depends on the seed, its number and the data alone.
    family: what the targets are for. reader: of the dense family's surface codes.
    """

    def __init__(
        self,
        images: Sequence[BopImage | Tile],
        models: list[ObjectModel],
        strides: tuple[int, ...],
        config: CropConfig,
        seed: int,
        faults: Faults | None = None,
        reader: CodeReader | None = None,
        family: Literal["keypoint", "dense", "heatmap"] = "keypoint",
    ):
        if not images:
            raise ValueError("no images: the data set's split is empty")
        self.images, self.models, self.strides, self.config, self.seed = images, models, strides, config, seed
        self.class_of = {model.id: index for index, model in enumerate(models)}
        self.faults, self.reader, self.family = faults or Faults(), reader, family
        if family == "dense" and (config.roll_deg or config.paste.share):
            raise ValueError("crops.roll_deg, crops.paste: not of the dense family's codes; wanted 0")
        self.numbers = self._numbers()
        self.turns = self._turns()
        self.paster = Paster(config.paste) if config.paste.share else None
        self.collate = {"keypoint": collate, "dense": collate_dense, "heatmap": collate_points}[family]

    def _numbers(self) -> np.ndarray:
        """Of the images, which samples are cut from. Heatmaps want an object in nearly all."""
        everything = np.arange(len(self.images))
        if self.family != "heatmap":
            return everything
        shown = np.array(
            [any(self._known(i) and self._used(i) for i in one.instances) for one in self.images]
        )
        if not shown.any():
            raise ValueError(f"none of the {len(shown)} images shows an object to train on")
        share = self.config.search_share
        empties = int(shown.sum() * share / (1 - share)) if share < 1 else len(shown)
        return np.sort(np.concatenate([everything[shown], everything[~shown][:empties]]))

    def _turns(self) -> Turns | None:
        """Which tiles samples show; None of whole images, which are cut as ``_choose`` draws it, and of
        heatmaps. A tile about an object that is hidden too far shows nothing and is left out."""
        if self.family == "heatmap" or not isinstance(self.images[0], Tile):
            return None
        wide = np.array([tile.wide for tile in self.images], bool)
        shown = np.array(
            [any(self._known(i) and self._used(i) for i in tile.instances) for tile in self.images], bool
        )
        about = np.flatnonzero(~wide & shown)
        return Turns(about, np.flatnonzero(wide), self.config.search_share, self.seed)

    def _order(self, epoch: int) -> np.ndarray:
        return self.numbers[shuffled(len(self.numbers), self.seed, 0, epoch)]

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        for number in self._candidates(index):
            image = self.images[number]
            try:
                tile = image
                if not isinstance(image, Tile):
                    tile = read_tile(image, self.class_of, self.reader is not None)
                return self.sample(tile, np.random.default_rng((self.seed, 1, index)))
            except DatasetError as error:
                self.faults.add(error)
        raise DatasetError(f"none of the {len(self.images)} images can be read", "picture")

    def _candidates(self, index: int) -> Sequence[int]:
        """What sample ``index`` shows: its tile, or of all images, from its place of the epoch on, round and
        round, the first that can be read."""
        if self.turns:
            return [self.turns.number(index)]
        epoch, position = divmod(index, len(self.numbers))
        return np.roll(self._order(epoch), -position)

    def sample(self, tile: Tile, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """Return ``image`` (3, size, size) uint8 RGB and the family's targets for one random crop:
        ``make_targets``, ``make_dense_targets`` or ``make_points``."""
        if self.config.roll_deg:
            angle = np.radians(rng.uniform(-1, 1) * self.config.roll_deg)
            tile = rolled(tile, angle, {model.id: model for model in self.models})
        if self.paster:
            tile = self.paster(tile, rng)
        known = [i for i in tile.instances if self._known(i)]
        crop, about = self._choose(tile, known, rng)
        if self.family == "keypoint":
            made = self._votes(tile, known, crop, rng)
        elif self.family == "dense":
            made = self._codes(tile, known, crop)
        else:
            made = self._points(tile, about, crop)
        return {"image": torch.from_numpy(crop.apply(tile.pixels).transpose(2, 0, 1).copy()), **made}

    def _votes(self, tile: Tile, known: list[TileInstance], crop: Crop, rng) -> dict[str, torch.Tensor]:
        labels = nearest(tile.labels, crop)
        instances = [
            Instance(
                self.class_of[i.object_id],
                i.T_camera_object,
                labels == i.label,
                i.box_size * crop.scale,
                self._used(i),
            )
            for i in known
        ]
        K, size = crop.camera(tile.K), (crop.height, crop.width)
        return make_targets(instances, self.models, K, size, self.strides, rng, self.config.cells)

    def _codes(self, tile: Tile, known: list[TileInstance], crop: Crop) -> dict[str, torch.Tensor]:
        (stride,) = self.strides
        output = Crop(
            crop.left, crop.top, crop.scale / stride, crop.width // stride, crop.height // stride
        )  # the same region, a pixel for each of the network's
        seen = tile.cut(output, wide=False)
        labels = {i.label for i in seen.instances}
        known = [i for i in known if i.label in labels]
        if seen.codes is None:
            seen = seen.coded(self.reader)
        number = np.zeros(256, np.uint8)
        for index, instance in enumerate(known):
            number[instance.label] = 1 + index
        classes = [self.class_of[i.object_id] for i in known]
        tied = [
            min(MAX_TIED, len(representatives(i.T_camera_object, self.models[c])))
            for i, c in zip(known, classes)
        ]
        return make_dense_targets(
            classes, [self._used(i) for i in known], tied, number[seen.labels], seen.codes
        )

    def _points(self, tile: Tile, about: TileInstance | None, crop: Crop) -> dict[str, torch.Tensor]:
        absent = np.ones(len(self.models), bool)
        absent[[self.class_of[i.object_id] for i in tile.instances if self._known(i)]] = False
        index = self.class_of[about.object_id] if about else 0
        pose = about.T_camera_object if about else None
        K, size = crop.camera(tile.K), (crop.height, crop.width)
        return make_points(index, self.models[index], pose, K, size, absent)

    def _known(self, instance: TileInstance | BopInstance) -> bool:
        return instance.object_id in self.class_of

    def _used(self, instance: TileInstance | BopInstance) -> bool:
        return instance.visib_fract >= self.config.min_visibility

    def _choose(
        self, tile: Tile, known: list[TileInstance], rng: np.random.Generator
    ) -> tuple[Crop, TileInstance | None]:
        """The crop, and the object it is about; None where it is about none. Heatmaps always look at one if
        there is one."""
        visible = [i for i in known if self._used(i)]
        searches = self.family != "heatmap"
        if (
            not visible
            or (searches and tile.wide is True)
            or (searches and tile.wide is None and rng.random() < self.config.search_share)
        ):
            return anywhere(tile, self.config, rng), None
        chosen = visible[rng.integers(len(visible))]
        model = self.models[self.class_of[chosen.object_id]]
        return around_object(model_box(chosen.T_camera_object, model, tile.K), self.config, rng), chosen
