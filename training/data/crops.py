"""A BOP data set as an endless, seeded stream of training crops: sample i is the same on every machine and restart."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from pose_kd_ros.core.camera import Crop
from pose_kd_ros.core.object_model import ObjectModel
from pose_kd_ros.evaluation.bop import BopImage

from .targets import Instance, make_targets


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
    """Share of samples that show a wide, random part of the image instead, as the search without a track does."""
    search_px: tuple[float, float] = (256.0, 704.0)
    """Side of that wide part in image pixels."""
    min_visibility: float = 0.15
    """Objects seen less than this are ignored: neither background nor asked to vote."""


def around_object(box: np.ndarray, config: CropConfig, rng: np.random.Generator) -> Crop:
    """A jittered square about a box (x0, y0, x1, y1)."""
    side = max(box[2:] - box[:2])
    center = (box[:2] + box[2:]) / 2 + rng.uniform(-1, 1, 2) * config.shift_jitter * side
    side *= config.margin * (1 + rng.uniform(-1, 1) * config.scale_jitter)
    return Crop(*(center - side / 2 + 0.5), config.size / side, config.size, config.size)


def anywhere(width: int, height: int, config: CropConfig, rng: np.random.Generator) -> Crop:
    """A wide square that overlaps the image, its sides free."""
    side = np.exp(rng.uniform(*np.log(config.search_px)))
    left, top = (rng.uniform(min(0.0, extent - side), max(0.0, extent - side)) for extent in (width, height))
    return Crop(left, top, config.size / side, config.size, config.size)


class CropDataset(Dataset):
    """Crops of BOP images with their targets; ``dataset[i]`` for any i >= 0, epoch after epoch, each shuffled anew."""

    def __init__(self, images: list[BopImage], models: list[ObjectModel], strides: tuple[int, ...],
                 config: CropConfig, seed: int):
        if not images:
            raise ValueError("no images: the data set's split is empty")
        self.images, self.models, self.strides, self.config, self.seed = images, models, strides, config, seed
        self.class_of = {model.id: index for index, model in enumerate(models)}

    @lru_cache(maxsize=2)  # noqa: B019 - a data set lives as long as its worker
    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, 0, epoch)).permutation(len(self.images))

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        epoch, position = divmod(index, len(self.images))
        image = self.images[self._order(epoch)[position]]
        return self.sample(image, np.random.default_rng((self.seed, 1, index)))

    def sample(self, image: BopImage, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """Return ``image`` (3, size, size) uint8 RGB and the targets of ``make_targets`` for one random crop."""
        pixels = image.load_rgb()
        known = [i for i in image.instances if i.object_id in self.class_of and i.visib_fract > 0]
        crop = self._choose(image, known, pixels.shape, rng)
        instances = [self._instance(i, crop) for i in known]
        targets = make_targets(instances, self.models, crop.camera(image.K), (crop.height, crop.width),
                               self.strides, rng)
        return {"image": torch.from_numpy(crop.apply(pixels).transpose(2, 0, 1).copy()), **targets}

    def _choose(self, image: BopImage, known: list, shape: tuple, rng: np.random.Generator) -> Crop:
        visible = [i for i in known if i.visib_fract >= self.config.min_visibility]
        if not visible or rng.random() < self.config.search_share:
            return anywhere(shape[1], shape[0], self.config, rng)
        return around_object(self._box(visible[rng.integers(len(visible))], image.K), self.config, rng)

    def _box(self, instance, K: np.ndarray) -> np.ndarray:
        """The projected model box (x0, y0, x1, y1): what the track predicts at run time, hidden parts included."""
        corners = instance.T_camera_object[:3, :3] @ self.models[self.class_of[instance.object_id]].corners().T
        corners = K @ (corners + instance.T_camera_object[:3, 3:])
        pixels = (corners[:2] / np.maximum(corners[2], 1e-6)).T
        return np.concatenate([pixels.min(0), pixels.max(0)])

    def _instance(self, instance, crop: Crop) -> Instance:
        mask = cv2.warpAffine(read_mask(instance), crop.matrix()[:2], (crop.width, crop.height), flags=cv2.INTER_NEAREST) > 127
        x, y, w, h = instance.bbox_obj
        use = instance.visib_fract >= self.config.min_visibility
        return Instance(self.class_of[instance.object_id], instance.T_camera_object, mask, max(w, h) * crop.scale, use)


def read_mask(instance) -> np.ndarray:
    """Return an instance's visible mask (H, W) uint8; raises ValueError where there is none, or it cannot be decoded."""
    if instance.mask_visib_path is None:
        raise ValueError(f"object {instance.object_id}: no mask_visib file, which training needs to choose its cells")
    mask = cv2.imread(str(instance.mask_visib_path), cv2.IMREAD_GRAYSCALE)
    if mask is None:
        raise ValueError(f"{instance.mask_visib_path}: not an image that OpenCV can decode")
    return mask
