# SPDX-License-Identifier: Apache-2.0
"""People as an endless, seeded stream of top-down training crops: sample i is the same on every
machine and restart."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate

from pose_kd_ros.core.camera import warp
from pose_kd_ros.datasets.faults import DatasetError, Faults

from .people import People, Person

STRIDE = 4  # of the heatmaps


@dataclass(frozen=True)
class PeopleCropConfig:
    """What a training sample shows of a person. Defaults are those of the public code bases for these
    benchmarks."""

    size: int = 256
    """Height of the network input, pixels."""
    aspect: float = 1.0
    """Its width over its height: 1 for MPII, 0.75 for COCO (192x256)."""
    flip: float = 0.5
    """Share of samples that are mirrored, left and right joints swapped."""
    scale: float = 0.25
    """The region's side is multiplied by a normal factor of this deviation about 1, cut off there."""
    rotation_deg: float = 30.0
    """Deviation of the normal angle by which a picture is turned, cut off at twice this."""
    rotated: float = 0.6
    """Share of samples that are turned at all."""

    def __post_init__(self):
        input_size(self.size, self.aspect)
        for name in ("flip", "rotated"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"crops.{name}: wanted a share from 0 to 1, found {getattr(self, name)}")
        if not 0 <= self.scale < 1:
            raise ValueError(f"crops.scale: wanted 0 <= scale < 1, found {self.scale}")


def input_size(size: int, aspect: float) -> tuple[int, int]:
    """Return width and height of the input in pixels; raise ValueError if its heatmaps would not have whole
    sizes."""
    width, height = size * aspect, size
    if min(width, height) <= 0 or width % STRIDE or height % STRIDE:
        raise ValueError(f"size, aspect: wanted multiples of {STRIDE} px, found {width:g}x{height}")
    return int(width), height


def placed(
    person: Person, width: int, height: int, zoom: float = 1.0, angle: float = 0.0, mirrored: bool = False
) -> np.ndarray:
    """Return the (3, 3) map of a picture's pixels to those of a crop of the person.

    It is turned and zoomed about the crop's centre and mirrored last. Convention: a positive angle (radians)
    turns the picture clockwise, from u towards v.
    """
    u, v = (width - 1) / 2, (height - 1) / 2
    cos, sin = zoom * np.cos(angle), zoom * np.sin(angle)
    turn = np.array([[cos, -sin, u - cos * u + sin * v], [sin, cos, v - sin * u - cos * v], [0, 0, 1]])
    mirror = np.array([[-1.0, 0, width - 1], [0, 1, 0], [0, 0, 1]]) if mirrored else np.eye(3)
    return mirror @ turn @ person.crop(width, height).matrix()


class PeopleDataset(Dataset):
    """Crops of people with their joints; ``dataset[i]`` for any i >= 0. Every epoch is shuffled differently.

    faults: what to do with a picture that cannot be read: raise DatasetError, or show the next person of the
    epoch, as ``data.crops.CropDataset`` does.
    """

    collate = staticmethod(default_collate)

    def __init__(self, people: People, config: PeopleCropConfig, seed: int, faults: Faults | None = None):
        if not people.persons:
            raise ValueError(f"{people.annotations}: wanted a person to train on, found none")
        self.people, self.config, self.seed, self.faults = people, config, seed, faults or Faults()
        self.source = people.annotations

    @property
    def count(self) -> int:
        """Number of people."""
        return len(self.people.persons)

    @lru_cache(maxsize=2)  # noqa: B019 - a data set lives as long as its worker
    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, 0, epoch)).permutation(len(self.people.persons))

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        epoch, position = divmod(index, len(self.people.persons))
        for number in np.roll(self._order(epoch), -position):
            try:
                return self.sample(self.people.persons[number], np.random.default_rng((self.seed, 1, index)))
            except DatasetError as error:
                self.faults.add(error)
        raise DatasetError(f"{self.source}: wanted a readable picture, found none", "picture")

    def sample(self, person: Person, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """Return of one random crop ``image`` (3, height, width) uint8 RGB, ``points`` (K, 2) pixels of it,
        ``visible`` (K,) 0 or 1, and ``class_index`` 0. A joint outside the crop is not visible."""
        config, (width, height) = self.config, input_size(self.config.size, self.config.aspect)
        region = np.clip(1 + config.scale * rng.normal(), 1 - config.scale, 1 + config.scale)
        degrees = config.rotation_deg * np.clip(rng.normal(), -2, 2) * (rng.random() < config.rotated)
        mirrored = bool(rng.random() < config.flip)
        matrix = placed(person, width, height, 1 / region, np.radians(degrees), mirrored)
        order = self.people.skeleton.mirrored() if mirrored else slice(None)
        points = (person.points @ matrix[:2, :2].T + matrix[:2, 2])[order]
        inside = ((points > -0.5) & (points < (width - 0.5, height - 0.5))).all(1)
        image = warp(person.load(), matrix, width, height).transpose(2, 0, 1)
        return {
            "image": torch.from_numpy(image.copy()),
            "points": torch.from_numpy(points.astype(np.float32)),
            "visible": torch.from_numpy(person.visible[order] * inside.astype(np.float32)),
            "class_index": torch.tensor(0),
        }
