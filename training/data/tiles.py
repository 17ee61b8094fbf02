"""Images in memory: read once, cut to what training looks at, so that a small network never waits for a
disk."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from tqdm import tqdm

from pose_kd_ros.core.camera import Crop
from pose_kd_ros.core.object_model import ObjectModel
from pose_kd_ros.core.pose import transform
from pose_kd_ros.evaluation.bop import BopImage

REACH = 2.6  # side of a tile in units of the object's box: what crops with their jitter can ask for
WIDE_PX = (256.0, 704.0)  # side, image pixels, of the wide tiles that stand for the search of a whole frame
WIDE_SHARE = 0.45  # wide tiles per image


@dataclass(frozen=True)
class TileInstance:
    """One object in a tile. label: its value in the tile's label map. box_size: longer side of its box, tile
    pixels."""

    object_id: int
    T_camera_object: np.ndarray
    visib_fract: float
    label: int
    box_size: float


@dataclass(frozen=True)
class Tile:
    """An image or a part of one. pixels (H, W, 3) uint8 RGB; labels (H, W) uint8, 0 where no known object is
    seen.

    K (3, 3) of the tile. wide: True for a part chosen without regard to objects, False for one around an
    object, None for a whole image.
    """

    pixels: np.ndarray
    labels: np.ndarray
    K: np.ndarray
    instances: tuple[TileInstance, ...]
    wide: bool | None = None

    def cut(self, crop: Crop, wide: bool) -> Tile:
        """The tile that ``crop`` shows of this one; instances that are not seen in it are left out."""
        labels = cv2.warpAffine(
            self.labels, crop.matrix()[:2], (crop.width, crop.height), flags=cv2.INTER_NEAREST
        )
        seen = tuple(
            TileInstance(i.object_id, i.T_camera_object, i.visib_fract, i.label, i.box_size * crop.scale)
            for i in self.instances
            if (labels == i.label).any()
        )
        return Tile(crop.apply(self.pixels), labels, crop.camera(self.K), seen, wide)


def read_tile(image: BopImage) -> Tile:
    """Read a BOP image whole; raises ValueError where a mask is missing or a file cannot be decoded."""
    pixels = image.load_rgb()
    labels, instances = np.zeros(pixels.shape[:2], np.uint8), []
    for label, instance in enumerate((i for i in image.instances if i.visib_fract > 0), 1):
        labels[read_mask(instance) > 127] = label
        instances.append(
            TileInstance(
                instance.object_id,
                instance.T_camera_object,
                instance.visib_fract,
                label,
                float(max(instance.bbox_obj[2:])),
            )
        )
    return Tile(pixels, labels, image.K, tuple(instances))


def make_tiles(images: list[BopImage], models: list[ObjectModel], size: int, seed: int) -> list[Tile]:
    """Cut a data set into tiles of ``size`` px: one around every object, and wide ones of a share of the
    images."""
    by_id, rng, tiles = {m.id: m for m in models}, np.random.default_rng((seed, 2)), []
    for image in tqdm(images, desc="tiles", unit="img"):
        whole = read_tile(image)
        for instance in whole.instances:
            if instance.object_id in by_id:
                box = model_box(instance.T_camera_object, by_id[instance.object_id], whole.K)
                tiles.append(whole.cut(Crop.around(box, size, REACH), wide=False))
        if not whole.instances or rng.random() < WIDE_SHARE:
            tiles.append(whole.cut(_wide(whole, size, rng), wide=True))
    return tiles


def _wide(tile: Tile, size: int, rng: np.random.Generator) -> Crop:
    side = np.exp(rng.uniform(*np.log(WIDE_PX)))
    left, top = (rng.uniform(min(0.0, e - side), max(0.0, e - side)) for e in tile.labels.shape[::-1])
    return Crop(left, top, size / side, size, size)


def model_box(pose: np.ndarray, model: ObjectModel, K: np.ndarray) -> np.ndarray:
    """The projected model box (x0, y0, x1, y1): what the track predicts at run time, hidden parts
    included."""
    points = transform(pose, model.corners()) @ np.transpose(K)
    pixels = points[:, :2] / np.maximum(points[:, 2:], 1e-6)
    return np.concatenate([pixels.min(0), pixels.max(0)])


def read_mask(instance) -> np.ndarray:
    """Return an instance's visible mask (H, W) uint8; raises ValueError where there is none, or it cannot be
    decoded."""
    if instance.mask_visib_path is None:
        raise ValueError(
            f"object {instance.object_id}: no mask_visib file, which training needs to choose its cells"
        )
    mask = cv2.imread(str(instance.mask_visib_path), cv2.IMREAD_GRAYSCALE)
    if mask is None:
        raise ValueError(f"{instance.mask_visib_path}: not an image that OpenCV can decode")
    return mask
