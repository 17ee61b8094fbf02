# SPDX-License-Identifier: Apache-2.0
"""One image of a data set and what is in it, made from the json entries of either layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from ..faults import DatasetError
from ..source import Mask, Source, decoded
from ..values import METRES, as_list, as_object, numbers, rigid

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class BopInstance:
    """One object in one image.

    T_camera_object (4, 4) float64 metres; boxes (x, y, width, height) px or None without scene_gt_info.json;
    visib_fract 0..1, 1 where that is unknown; mask_visib or None where there is no such file.
    """

    object_id: int
    T_camera_object: np.ndarray
    bbox_visib: Box | None
    bbox_obj: Box | None
    visib_fract: float
    mask_visib: Mask | None

    def load_mask(self) -> np.ndarray:
        """(H, W) bool, the visible part; DatasetError where there is none, or it is damaged."""
        if self.mask_visib is None:
            raise DatasetError(f"object {self.object_id}: no mask_visib file", "mask")
        return self.mask_visib.load()


@dataclass(frozen=True)
class BopImage:
    """One image and what is in it. K (3, 3) px, pixel centres at integers; depth_scale: metres per count of
    the depth file (depth None where there is none). T_camera_world (4, 4) metres, None where unknown.
    has_truth: False where the true poses are unknown."""

    scene_id: int
    image_id: int
    rgb: Source
    K: np.ndarray
    depth: Source | None
    depth_scale: float
    instances: tuple[BopInstance, ...]
    T_camera_world: np.ndarray | None = None
    has_truth: bool = True

    def load_rgb(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB, the pixels that K is about: an EXIF orientation is not followed. Grey images
        have three equal channels. DatasetError where the file is missing or damaged."""
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        return decoded(self.rgb, flags, "picture")[..., ::-1].copy()

    def load_rgba(self) -> np.ndarray:
        """(H, W, 4) uint8 RGB and coverage of an object view; DatasetError where the picture has no alpha."""
        pixels = decoded(self.rgb, cv2.IMREAD_UNCHANGED, "picture")
        if pixels.ndim != 3 or pixels.shape[2] != 4 or pixels.dtype != np.uint8:
            found = f"{pixels.dtype} of shape {pixels.shape}"
            wanted = "8-bit RGBA (render --view object)"
            raise DatasetError(f"{self.rgb}: wanted {wanted}, found {found}", "picture")
        return cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA)

    def load_depth(self) -> np.ndarray:
        """(H, W) float32 metres, 0 where there is no measurement. Raises
        DatasetError without a depth file."""
        if self.depth is None:
            raise DatasetError(f"scene {self.scene_id}, image {self.image_id}: has no depth file", "depth")
        return (decoded(self.depth, cv2.IMREAD_UNCHANGED, "depth") * self.depth_scale).astype(np.float32)


@dataclass(frozen=True)
class Entries:
    """What the json files say of one image; ``where``: names of the entries, in errors. truths:
    None where there is no such file.

    masks: of each instance that has one, by its index.
    """

    camera: Any
    truths: Any
    infos: Any | None
    masks: dict[int, Mask]
    where: dict[str, str]


def make_image(scene_id: int, image_id: int, rgb: Source, depth: Source | None, entries: Entries) -> BopImage:
    """The image of these entries; DatasetError that names what is missing or wrong in them."""
    where = entries.where["camera"]
    camera = as_object(entries.camera, where)
    scale = float(numbers(camera, "depth_scale", 1, where)[0]) if depth or "depth_scale" in camera else 1.0
    K, T_camera_world = _intrinsics(camera, where), _camera_pose(camera, where)
    has_truth = entries.truths is not None
    instances = _instances(entries) if has_truth else ()
    return BopImage(scene_id, image_id, rgb, K, depth, scale * METRES, instances, T_camera_world, has_truth)


def _intrinsics(camera: dict, where: str) -> np.ndarray:
    lens = [name for name in camera if "model" in name or name in ("intrinsics", "calibration")]
    if "cam_K" not in camera and lens:
        raise DatasetError(
            f"{where}: cam_K: wanted a pinhole camera, found {lens[0]}; undistort the images first"
        )
    K = numbers(camera, "cam_K", 9, where).reshape(3, 3)
    if K[0, 0] <= 0 or K[1, 1] <= 0:
        raise DatasetError(f"{where}: cam_K: wanted positive focal lengths, found {K[0, 0]} and {K[1, 1]}")
    if np.abs(K[[0, 1, 2, 2], [1, 0, 0, 1]]).max() > 1e-6 * K[0, 0] or K[2, 2] != 1:
        raise DatasetError(f"{where}: cam_K: wanted fx, 0, cx; 0, fy, cy; 0, 0, 1, found {K.tolist()}")
    K[[0, 1, 2, 2], [1, 0, 0, 1]] = 0.0
    return K


def _camera_pose(camera: dict, where: str) -> np.ndarray | None:
    """T_camera_world of cam_R_w2c and cam_t_w2c, which go together or are both absent."""
    if "cam_R_w2c" not in camera and "cam_t_w2c" not in camera:
        return None
    return rigid(camera, "cam_R_w2c", "cam_t_w2c", where)


def _instances(entries: Entries) -> tuple[BopInstance, ...]:
    truths = as_list(entries.truths, entries.where["gt"])
    details: list = [None] * len(truths)
    if entries.infos is not None:
        details = as_list(entries.infos, entries.where["gt_info"])
        if len(details) != len(truths):
            raise DatasetError(
                f"{entries.where['gt_info']}: wanted {len(truths)} entries as in scene_gt.json, "
                f"found {len(details)}"
            )
    return tuple(_instance(entries, k, *pair) for k, pair in enumerate(zip(truths, details)))


def _instance(entries: Entries, k: int, truth: dict, info: dict | None) -> BopInstance:
    where, mask = f"{entries.where['gt']}, instance {k}", entries.masks.get(k)
    pose = rigid(truth, "cam_R_m2c", "cam_t_m2c", where)
    object_id = int(numbers(truth, "obj_id", 1, where)[0])
    if info is None:
        return BopInstance(object_id, pose, None, None, 1.0, mask)
    where = f"{entries.where['gt_info']}, instance {k}"
    visible, whole = (_box(info, name, where) for name in ("bbox_visib", "bbox_obj"))
    share = float(numbers(info, "visib_fract", 1, where)[0])
    return BopInstance(object_id, pose, visible, whole, share, mask)


def _box(info: dict, name: str, where: str) -> Box:
    x, y, width, height = numbers(info, name, 4, where).tolist()
    return x, y, width, height
