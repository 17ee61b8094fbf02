# SPDX-License-Identifier: Apache-2.0
"""Images in memory: read once and cut to the parts that training uses, so that a small network never waits
for the disk."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, replace

import cv2
import numpy as np
from tqdm import tqdm

from pose_kd_ros.core.camera import Crop
from pose_kd_ros.core.object_model import ObjectModel
from pose_kd_ros.core.pose import transform
from pose_kd_ros.datasets.bop import BopImage, BopInstance
from pose_kd_ros.datasets.faults import DatasetError, Faults

from .surface import CodeReader

REACH = 2.6  # side of a tile in units of the object's box: what crops with their jitter can ask for
WIDE_PX = (256.0, 704.0)  # side, image pixels, of the wide tiles that stand for the search of a whole frame
WIDE_SHARE = 0.45  # wide tiles per image


@dataclass(frozen=True)
class TileInstance:
    """One object in a tile. label: its value in the tile's label map. box_size: longer side of its
    box, tile pixels."""

    object_id: int
    T_camera_object: np.ndarray
    visib_fract: float
    label: int
    box_size: float


@dataclass(frozen=True)
class Tile:
    """An image or a part of one. pixels (H, W, 3) uint8 RGB; labels (H, W) uint8, 0 where no known object is
    seen. codes (R, H, W) uint16, for the dense family: each representative's, see ``data.surface``.

    K (3, 3) of the tile. wide: True for a part chosen without regard to objects, False for one around an
    object, None for a whole image. depth (H, W) float32 metres: of tiles whose codes are not read yet. where:
    names the picture it is of.
    """

    pixels: np.ndarray
    labels: np.ndarray
    K: np.ndarray
    instances: tuple[TileInstance, ...]
    wide: bool | None = None
    codes: np.ndarray | None = None
    depth: np.ndarray | None = None
    where: str = ""

    def cut(self, crop: Crop, wide: bool) -> Tile:
        """Return the tile that ``crop`` shows of this one; instances that are not seen in it are left out."""
        labels = nearest(self.labels, crop)
        seen = tuple(
            TileInstance(i.object_id, i.T_camera_object, i.visib_fract, i.label, i.box_size * crop.scale)
            for i in self.instances
            if (labels == i.label).any()
        )
        codes = None if self.codes is None else np.stack([nearest(each, crop) for each in self.codes])
        depth = None if self.depth is None else nearest(self.depth, crop)
        K = crop.camera(self.K)
        return Tile(crop.apply(self.pixels), labels, K, seen, wide, codes, depth, self.where)

    def coded(self, reader: CodeReader | None) -> Tile:
        """Return the tile with surface codes in place of depth; raise DatasetError if the depth does not fit
        the mesh."""
        if reader is None:
            return self
        assert self.depth is not None  # a tile for codes is read with its depth
        codes = reader.codes(self.labels, self.depth, self.K, self.instances, self.where)
        return replace(self, codes=codes, depth=None)


def nearest(values: np.ndarray, crop: Crop) -> np.ndarray:
    """Return the values (H, W) at a crop's pixels, by the nearest pixel, without interpolation."""
    return cv2.warpAffine(values, crop.matrix()[:2], (crop.width, crop.height), flags=cv2.INTER_NEAREST)


def read_tile(image: BopImage, wanted: Container[int], with_depth: bool = False) -> Tile:
    """Read a BOP image whole, with the instances of the object ids ``wanted``; DatasetError where a file is
    missing or damaged."""
    check_labels(image, wanted)
    pixels = image.load_rgb()
    labels, instances = np.zeros(pixels.shape[:2], np.uint8), []
    for label, instance in enumerate(_seen(image, wanted), 1):
        assert instance.bbox_obj is not None  # ``check_labels`` refuses others
        labels[_mask(instance, labels.shape)] = label
        instances.append(
            TileInstance(
                instance.object_id,
                instance.T_camera_object,
                instance.visib_fract,
                label,
                float(max(instance.bbox_obj[2:])),
            )
        )
    depth = image.load_depth() if with_depth else None
    return Tile(pixels, labels, image.K, tuple(instances), depth=depth, where=str(image.rgb))


def check_labels(image: BopImage, wanted: Container[int]) -> None:
    """Raise DatasetError, before any picture is read, if what training needs of an instance is not there."""
    for instance in _seen(image, wanted):
        where = f"{image.rgb}, object {instance.object_id}"
        if instance.mask_visib is None:
            raise DatasetError(f"{where}: wanted a mask_visib to choose cells from, found none", "mask")
        if instance.bbox_obj is None:
            raise DatasetError(f"{where}: wanted a bbox_obj (scene_gt_info) for its size, found none")


def _seen(image: BopImage, wanted: Container[int]) -> list[BopInstance]:
    return [i for i in image.instances if i.visib_fract > 0 and i.object_id in wanted]


def _mask(instance: BopInstance, size: tuple[int, ...]) -> np.ndarray:
    mask = instance.load_mask()
    if mask.shape != size:
        found, wanted = (f"{s[1]}x{s[0]}" for s in (mask.shape, size))
        raise DatasetError(f"{instance.mask_visib}: wanted the picture's {wanted} px, found {found}", "mask")
    return mask


def make_tiles(
    images: list[BopImage],
    models: list[ObjectModel],
    size: int,
    seed: int,
    faults: Faults | None = None,
    reader: CodeReader | None = None,
) -> Iterator[Tile]:
    """Cut a data set into tiles of ``size`` px: one around every object, and wide ones of a share of the
    images. Images that cannot be read are added to ``faults``."""
    by_id, rng, faults = {m.id: m for m in models}, np.random.default_rng((seed, 2)), faults or Faults()
    for image in tqdm(images, desc="tiles", unit="img"):
        try:
            whole = read_tile(image, by_id, reader is not None)
        except DatasetError as error:
            faults.add(error)
            continue
        yield from _tiles_of(whole, by_id, size, rng, faults, reader)


def _tiles_of(whole: Tile, by_id: dict[int, ObjectModel], size: int, rng, faults, reader) -> Iterator[Tile]:
    for instance in whole.instances:
        box = model_box(instance.T_camera_object, by_id[instance.object_id], whole.K)
        tile = whole.cut(Crop.around(box, size, REACH), wide=False)
        try:
            yield tile.coded(reader)
        except DatasetError as error:
            faults.add(error)
    # a dense network never searches
    if not whole.instances or (reader is None and rng.random() < WIDE_SHARE):
        yield whole.cut(_wide(whole, size, rng), wide=True).coded(reader)


def _wide(tile: Tile, size: int, rng: np.random.Generator) -> Crop:
    side = np.exp(rng.uniform(*np.log(WIDE_PX)))
    left, top = (rng.uniform(min(0.0, e - side), max(0.0, e - side)) for e in tile.labels.shape[::-1])
    return Crop(left, top, size / side, size, size)


def rolled(tile: Tile, angle: float, models: Mapping[int, ObjectModel]) -> Tile:
    """Return what the tile's camera would see if it were turned about its optical axis. This is exact: there
    is no parallax.

    angle: radians; convention: a positive one turns the picture clockwise, from u towards v. The picture's
    centre stays where it is, so the principal point moves. Codes and depth are not kept.
    """
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    height, width = tile.labels.shape
    about_axis = tile.K @ turn[:3, :3] @ np.linalg.inv(tile.K)
    center = np.array([(width - 1) / 2, (height - 1) / 2, 1.0])
    shift = np.eye(3)
    shift[:2, 2] = (center - about_axis @ center)[:2]
    K, matrix = shift @ tile.K, (shift @ about_axis)[:2]
    pixels = cv2.warpAffine(tile.pixels, matrix, (width, height), flags=cv2.INTER_LINEAR)
    labels = cv2.warpAffine(tile.labels, matrix, (width, height), flags=cv2.INTER_NEAREST)

    def seen(instance: TileInstance) -> TileInstance:
        pose = turn @ instance.T_camera_object
        box = model_box(pose, models[instance.object_id], K)
        return replace(instance, T_camera_object=pose, box_size=float(max(box[2:] - box[:2])))

    instances = tuple(seen(i) for i in tile.instances if i.object_id in models)
    return Tile(pixels, labels, K, instances, tile.wide, where=tile.where)


def model_box(pose: np.ndarray, model: ObjectModel, K: np.ndarray) -> np.ndarray:
    """Return the projected model box (x0, y0, x1, y1): what the track predicts at run time,
    hidden parts included."""
    points = transform(pose, model.corners()) @ np.transpose(K)
    pixels = points[:, :2] / np.maximum(points[:, 2:], 1e-6)
    return np.concatenate([pixels.min(0), pixels.max(0)])
