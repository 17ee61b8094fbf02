# SPDX-License-Identifier: Apache-2.0
"""Object views in memory: small pictures of single objects with alpha and depth, which training pastes.

``python -m training render --view object`` makes them, an ordinary BOP data set. They are packed once into
arrays that every process maps, so that a sample costs no decoding.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from pose_kd_ros.datasets.bop import BopDataset, BopImage
from pose_kd_ros.datasets.faults import DatasetError, Faults

PACKED = "packed"  # the folder of the arrays, in that of the split
ABOUT = "about.json"
ARRAYS = ("rgba", "depth", "K", "T_camera_object", "object_id")


@dataclass(frozen=True)
class View:
    """One object alone.

    rgba (S, S, 4) uint8, alpha is coverage; depth (S, S) float32 metres at pixel centres, 0 where the object
    is not; K (3, 3); T_camera_object (4, 4).
    """

    rgba: np.ndarray
    depth: np.ndarray
    K: np.ndarray
    T_camera_object: np.ndarray
    object_id: int


class Views:
    """The views of a split; each process maps the files itself.

    Raises ValueError where the split has none, and where one is not a picture with alpha, depth and one
    object.
    """

    def __init__(self, split: Path):
        self.split = Path(split)
        folder = packed(self.split)
        # asarray: a plain array of the same mapped memory is sliced much faster than a memmap
        arrays = [np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in ARRAYS]
        self.rgba, self._depth, self.K, self.T_camera_object, self.object_id = arrays
        self.unit = _about(folder)["depth_unit_m"]
        self.of_object = {int(i): np.flatnonzero(self.object_id == i) for i in np.unique(self.object_id)}

    def __reduce__(self):
        return Views, (self.split,)  # a spawned worker gets the path, not a copy

    def __len__(self) -> int:
        return len(self.rgba)

    def __getitem__(self, index: int) -> View:
        depth = self._depth[index].astype(np.float32) * np.float32(self.unit)
        return View(
            self.rgba[index], depth, self.K[index], self.T_camera_object[index], int(self.object_id[index])
        )


def packed(split: Path) -> Path:
    """Return the folder of the split's arrays; make them if they are missing or belong to other views."""
    folder, images = split / PACKED, BopDataset(split, Faults()).images
    if not images:
        raise ValueError(f"{split}: wanted object views (render --view object), found no images")
    fingerprint = _fingerprint(images)
    if _about(folder).get("views") != fingerprint:
        part = Path(tempfile.mkdtemp(prefix=f"{PACKED}.", dir=split))
        try:
            _pack(images, part, fingerprint)
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # another process has made the same in the meantime
                os.replace(part, folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return folder


def _about(folder: Path) -> dict:
    about = folder / ABOUT
    return json.loads(about.read_text(encoding="utf-8")) if about.exists() else {}


def _fingerprint(images: list[BopImage]) -> str:
    """Return a name for views: their number, and the cameras and poses of the first and the last, which
    differ between seeds."""
    ends = [
        (image.K.tolist(), [i.T_camera_object.tolist() for i in image.instances])
        for image in (images[0], images[-1])
    ]
    return hashlib.sha256(repr((len(images), ends)).encode()).hexdigest()


def _pack(images: list[BopImage], folder: Path, fingerprint: str) -> None:
    farthest = max(float(i.T_camera_object[2, 3]) for image in images for i in image.instances)
    unit = 2 * farthest / 65535  # metres; nothing of an object is twice as far as its origin
    first = read_view(images[0])
    rgba = np.lib.format.open_memmap(folder / "rgba.npy", "w+", np.uint8, (len(images), *first.rgba.shape))
    depth = np.lib.format.open_memmap(folder / "depth.npy", "w+", np.uint16, rgba.shape[:3])
    rows = []
    for index, image in enumerate(tqdm(images, desc=f"packing {folder.parent.name}", unit="view")):
        view = read_view(image)
        if view.rgba.shape != first.rgba.shape:
            raise ValueError(f"{image.rgb}: wanted {first.rgba.shape[:2]}, found {view.rgba.shape[:2]}")
        rgba[index], depth[index] = spread(view.rgba), np.round(view.depth / unit)
        rows.append((view.K, view.T_camera_object, view.object_id))
    for array in (rgba, depth):
        array.flush()
    for name, values in zip(ARRAYS[2:], zip(*rows)):
        np.save(folder / f"{name}.npy", np.array(values))
    (folder / ABOUT).write_text(json.dumps({"views": fingerprint, "depth_unit_m": unit}), encoding="utf-8")


def spread(rgba: np.ndarray) -> np.ndarray:
    """Return the view (S, S, 4) with the object's colours continued beyond its edge, so that interpolation at
    the edge does not mix in black."""
    color, alpha = rgba[..., :3].astype(np.float32), rgba[..., 3:].astype(np.float32)
    weight = cv2.GaussianBlur(alpha, (0, 0), 2.0)[..., None]
    around = cv2.GaussianBlur(color * alpha, (0, 0), 2.0) / np.maximum(weight, 1e-3)
    return np.dstack([np.where(alpha > 0, color, around).round().clip(0, 255).astype(np.uint8), rgba[..., 3]])


def read_view(image: BopImage) -> View:
    """Read one view from its files; raise DatasetError, naming the picture, if it is none."""
    rgba = image.load_rgba()
    if rgba.shape[0] != rgba.shape[1] or len(image.instances) != 1:
        found = f"{rgba.shape[1]}x{rgba.shape[0]} and {len(image.instances)} objects"
        raise DatasetError(f"{image.rgb}: wanted a square view of one object, found {found}", "picture")
    (instance,) = image.instances
    return View(rgba, image.load_depth(), image.K, instance.T_camera_object, instance.object_id)
