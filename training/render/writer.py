# SPDX-License-Identifier: Apache-2.0
"""Write one finished image to disk in BOP's format (millimetres in the json entries)."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from training.render.config import RenderConfig
from training.render.labels import InstanceLabel
from training.render.maker import Rendered
from training.render.views import RenderedView

Record = tuple[dict, list, list]


def write_image(made: Rendered, folder: Path, number: int, config: RenderConfig) -> Record:
    """Write picture and masks to `folder`; return the entries for scene_camera, scene_gt and scene_gt_info
    (mm)."""
    _write(
        folder / "rgb" / f"{number:06d}.jpg",
        made.rgb[..., ::-1],
        cv2.IMWRITE_JPEG_QUALITY,
        config.jpeg_quality,
    )
    if config.depth:
        tenths = np.clip(made.depth * 10000, 0, 65535).round().astype(np.uint16)
        _write(folder / "depth" / f"{number:06d}.png", tenths, cv2.IMWRITE_PNG_COMPRESSION, 1)
    for k, instance in enumerate(made.instances):
        for part, mask in (("mask", instance.mask), ("mask_visib", instance.mask_visible)):
            _write(
                folder / part / f"{number:06d}_{k:06d}.png",
                mask.astype(np.uint8) * 255,
                cv2.IMWRITE_PNG_COMPRESSION,
                1,
            )
    camera = {"cam_K": made.K.reshape(-1).tolist(), "depth_scale": 0.1}
    return camera, [_gt(i) for i in made.instances], [_gt_info(i) for i in made.instances]


def write_view(made: RenderedView, folder: Path, number: int, config: RenderConfig) -> Record:
    """Write RGBA picture, depth and mask to `folder`; return the entries as `write_image` does."""
    bgra = cv2.cvtColor(made.rgba, cv2.COLOR_RGBA2BGRA)
    fast = cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE
    _write(folder / "rgb" / f"{number:06d}.png", bgra, *fast)
    scale = _depth_scale(made.depth.max() * 1000)
    steps = (made.depth * (1000 / scale)).round().astype(np.uint16)
    _write(folder / "depth" / f"{number:06d}.png", steps, *fast)
    mask = made.instance.mask.astype(np.uint8) * 255
    for part in ("mask", "mask_visib"):
        _write(folder / part / f"{number:06d}_000000.png", mask, cv2.IMWRITE_PNG_BILEVEL, 1)
    camera = {"cam_K": made.K.reshape(-1).tolist(), "depth_scale": scale}
    return camera, [_gt(made.instance)], [_gt_info(made.instance)]


def _depth_scale(farthest_mm: float) -> float:
    """Return the millimetres of one step of a 16 bit picture: the first of 0.05, 0.1, 0.2, 0.5, ... that
    reaches so far."""
    steps = (mantissa * 10.0**power for power in range(-2, 3) for mantissa in (1, 2, 5))
    return next(step for step in steps if step >= 0.05 and farthest_mm / step < 65535)


def _write(path: Path, image: np.ndarray, option: int, value: int) -> None:
    if not cv2.imwrite(str(path), image, [option, value]):
        raise OSError(f"{path}: could not be written")


def _gt(instance: InstanceLabel) -> dict:
    pose = instance.T_camera_object
    return {
        "cam_R_m2c": pose[:3, :3].reshape(-1).tolist(),
        "cam_t_m2c": (pose[:3, 3] * 1000).tolist(),
        "obj_id": instance.object_id,
    }


def _gt_info(instance: InstanceLabel) -> dict:
    return {
        "bbox_obj": instance.bbox_obj,
        "bbox_visib": instance.bbox_visib,
        "px_count_all": instance.pixels_all,
        "px_count_valid": instance.pixels_valid,
        "px_count_visib": instance.pixels_visible,
        "visib_fract": instance.visible_share,
    }
