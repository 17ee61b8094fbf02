"""The one reader of data sets in BOP format (https://github.com/thodan/bop_toolkit/blob/master/docs/bop_datasets_format.md).

    <root>/models/models_info.json, obj_000001.ply        <root>/test_targets_bop19.json
    <root>/<split>/000002/{rgb|gray, depth, mask, mask_visib}/, scene_camera.json, scene_gt.json,
    scene_gt_info.json

BOP files hold millimetres; everything that leaves this module is in metres. Rotations are projected to
SO(3). Every error is a BopError that names the file, the entry and the field.
Convention: "cam_t_m2c": [0, 0, 1000] -> T_camera_object[:3, 3] = (0, 0, 1.0).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from .ply import load_ply_vertices as load_ply_vertices  # the models' files belong to this door

_METRES = 1e-3
_ROTATION_TOLERANCE = 1e-2
Box = tuple[float, float, float, float]


class BopError(ValueError):
    """A BOP file is missing, unreadable, or has a field that is missing or wrong."""


@dataclass(frozen=True)
class BopInstance:
    """One object in one image.

    T_camera_object (4, 4) float64 metres; boxes (x, y, width, height) px or None without scene_gt_info.json;
    visib_fract 0..1, 1 where that is unknown; mask_visib_path or None where there is no such file.
    """

    object_id: int
    T_camera_object: np.ndarray
    bbox_visib: Box | None
    bbox_obj: Box | None
    visib_fract: float
    mask_visib_path: Path | None


@dataclass(frozen=True)
class BopImage:
    """One image and what is in it. K (3, 3) px, pixel centres at integers; depth_scale: metres per count of
    the depth file (depth_path None where there is none)."""

    scene_id: int
    image_id: int
    rgb_path: Path
    K: np.ndarray
    depth_path: Path | None
    depth_scale: float
    instances: tuple[BopInstance, ...]

    def load_rgb(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB, the pixels that K is about: an EXIF orientation is not followed."""
        return _decoded(self.rgb_path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)[..., ::-1].copy()

    def load_depth(self) -> np.ndarray:
        """(H, W) float32 metres, 0 where there is no measurement. Raises BopError without a depth file."""
        if self.depth_path is None:
            raise BopError(f"scene {self.scene_id}, image {self.image_id}: has no depth file")
        return (_decoded(self.depth_path, cv2.IMREAD_UNCHANGED) * self.depth_scale).astype(np.float32)


class ContinuousSymmetry(NamedTuple):
    """Any turn about `axis` (3,) unit through `offset` (3,) metres maps the object to itself."""

    axis: np.ndarray
    offset: np.ndarray


@dataclass(frozen=True)
class ModelInfo:
    """Size and symmetries of an object: diameter and box in metres; symmetries_discrete (S, 4, 4) metres, the
    identity first; symmetries_continuous as given. Combining the two is left to the object model."""

    diameter_m: float
    box_min: np.ndarray
    box_size: np.ndarray
    symmetries_discrete: np.ndarray
    symmetries_continuous: tuple[ContinuousSymmetry, ...]


@dataclass(frozen=True)
class BopTarget:
    """What a benchmark asks for: `count` instances of an object in an image."""

    scene_id: int
    image_id: int
    object_id: int
    count: int


class BopDataset:
    """One split of a data set (<root>/train, <root>/test, ...): `images`, ordered by scene and image number.

    Pictures, masks and depth are read when they are asked for, the json files here. Raises BopError.
    """

    def __init__(self, split: Path | str) -> None:
        self.root = Path(split)
        scenes = [p for p in self.root.glob("*") if p.is_dir() and p.name.isdigit()]
        if not scenes:
            raise BopError(
                f"{self.root}: wants scene folders (000000, 000001, ...), found none: not a BOP split"
            )
        self.images = [image for scene in sorted(scenes) for image in load_scene(scene)]


# ---------------------------------------------------------------------------------------------------- scenes


def load_scene(folder: Path) -> list[BopImage]:
    """All images of one scene folder. scene_gt_info.json, masks and depth may be absent, the rest not."""
    cameras = _json_object(folder / "scene_camera.json")
    truths = _json_object(folder / "scene_gt.json")
    infos = _json_object(folder / "scene_gt_info.json") if (folder / "scene_gt_info.json").exists() else None
    files = {part: _by_stem(folder / part) for part in ("rgb", "gray", "depth", "mask_visib")}
    files["rgb"] = files["rgb"] or files["gray"]
    images = [_image(folder, key, cameras, truths, infos, files) for key in truths]
    return sorted(images, key=lambda image: image.image_id)


def _by_stem(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in folder.iterdir()} if folder.is_dir() else {}


def _image(
    folder: Path, key: str, cameras: dict, truths: dict, infos: dict | None, files: dict[str, dict[str, Path]]
) -> BopImage:
    if not key.isdigit():
        raise BopError(f"{folder / 'scene_gt.json'}: image number {key!r} is not a number")
    number, where = int(key), f"{folder / 'scene_camera.json'}, image {key}"
    if f"{number:06d}" not in files["rgb"]:
        raise BopError(f"{folder}: image {key} of scene_gt.json has no picture rgb/{number:06d}.*")
    camera = _field(cameras, key, folder / "scene_camera.json")
    K = _numbers(camera, "cam_K", 9, where).reshape(3, 3)
    if K[0, 0] <= 0 or K[1, 1] <= 0:
        raise BopError(f"{where}: cam_K: wants positive focal lengths, got {K[0, 0]} and {K[1, 1]}")
    depth = files["depth"].get(f"{number:06d}")
    scale = float(_numbers(camera, "depth_scale", 1, where)[0]) if depth or "depth_scale" in camera else 1.0
    instances = _instances(folder, key, truths[key], infos, files["mask_visib"])
    return BopImage(
        int(folder.name), number, files["rgb"][f"{number:06d}"], K, depth, scale * _METRES, instances
    )


def _instances(
    folder: Path, key: str, truths: list, infos: dict | None, masks: dict[str, Path]
) -> tuple[BopInstance, ...]:
    details: list = [None] * len(truths)
    if infos is not None:
        details = _field(infos, key, folder / "scene_gt_info.json")
        if len(details) != len(truths):
            raise BopError(
                f"{folder / 'scene_gt_info.json'}, image {key}: wants {len(truths)} entries as in "
                f"scene_gt.json, got {len(details)}"
            )
    return tuple(
        _instance(folder, key, k, truth, info, masks.get(f"{int(key):06d}_{k:06d}"))
        for k, (truth, info) in enumerate(zip(truths, details))
    )


def _instance(
    folder: Path, key: str, k: int, truth: dict, info: dict | None, mask: Path | None
) -> BopInstance:
    where = f"{folder / 'scene_gt.json'}, image {key}, instance {k}"
    pose = np.eye(4)
    pose[:3, :3] = _rotation(_numbers(truth, "cam_R_m2c", 9, where).reshape(3, 3), f"{where}: cam_R_m2c")
    pose[:3, 3] = _numbers(truth, "cam_t_m2c", 3, where) * _METRES
    object_id = int(_numbers(truth, "obj_id", 1, where)[0])
    if info is None:
        return BopInstance(object_id, pose, None, None, 1.0, mask)
    where = f"{folder / 'scene_gt_info.json'}, image {key}, instance {k}"
    boxes = [tuple(_numbers(info, name, 4, where).tolist()) for name in ("bbox_visib", "bbox_obj")]
    return BopInstance(object_id, pose, *boxes, float(_numbers(info, "visib_fract", 1, where)[0]), mask)


# ---------------------------------------------------------------------------------------------------- models


def load_models_info(path: Path) -> dict[int, ModelInfo]:
    """models_info.json -> {object id: ModelInfo}, metres."""
    return {
        int(key): _model_info(entry, f"{path}, object {key}")
        for key, entry in _json_object(Path(path)).items()
    }


def _model_info(entry: dict, where: str) -> ModelInfo:
    low, size = (
        np.concatenate([_numbers(entry, f"{name}_{axis}", 1, where) for axis in "xyz"]) * _METRES
        for name in ("min", "size")
    )
    diameter = float(_numbers(entry, "diameter", 1, where)[0]) * _METRES
    if diameter <= 0 or (size < 0).any():
        raise BopError(f"{where}: wants a positive diameter and size, got {diameter} m and {size} m")
    discrete = [np.eye(4)] + [
        _symmetry(values, f"{where}: symmetries_discrete[{k}]")
        for k, values in enumerate(entry.get("symmetries_discrete", ()))
    ]
    continuous = tuple(
        _continuous(values, f"{where}: symmetries_continuous[{k}]")
        for k, values in enumerate(entry.get("symmetries_continuous", ()))
    )
    return ModelInfo(diameter, low, size, np.stack(discrete), continuous)


def _symmetry(values: Any, where: str) -> np.ndarray:
    matrix = _numbers({"matrix": values}, "matrix", 16, where).reshape(4, 4)
    if not np.allclose(matrix[3], [0, 0, 0, 1]):
        raise BopError(f"{where}: wants the last row 0 0 0 1, got {matrix[3]}")
    result = np.eye(4)
    result[:3, :3], result[:3, 3] = _rotation(matrix[:3, :3], where), matrix[:3, 3] * _METRES
    return result


def _continuous(values: dict, where: str) -> ContinuousSymmetry:
    axis = _numbers(values, "axis", 3, where)
    if np.linalg.norm(axis) < 1e-9:
        raise BopError(f"{where}: axis: wants a direction, got {axis}")
    return ContinuousSymmetry(axis / np.linalg.norm(axis), _numbers(values, "offset", 3, where) * _METRES)


def load_targets(path: Path) -> tuple[BopTarget, ...]:
    """test_targets_bop19.json and its like."""
    entries = _json(Path(path))
    if not isinstance(entries, list):
        raise BopError(f"{path}: wants a list of targets, got {type(entries).__name__}")
    names = ("scene_id", "im_id", "obj_id", "inst_count")
    return tuple(
        BopTarget(*(int(_numbers(entry, name, 1, f"{path}, entry {k}")[0]) for name in names))
        for k, entry in enumerate(entries)
    )


# ---------------------------------------------------------------------------------------------------- values


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise BopError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BopError(f"{path}: not valid JSON: {error}") from error


def _json_object(path: Path) -> dict:
    found = _json(path)
    if not isinstance(found, dict):
        raise BopError(f"{path}: wants an object with one entry a number, got {type(found).__name__}")
    return found


def _field(entry: Any, name: str, where: object) -> Any:
    if not isinstance(entry, dict) or name not in entry:
        raise BopError(f"{where}: {name} is missing")
    return entry[name]


def _numbers(entry: Any, name: str, count: int, where: str) -> np.ndarray:
    value = _field(entry, name, where)
    try:
        numbers = np.array(value, np.float64).reshape(-1)
    except (TypeError, ValueError):
        raise BopError(f"{where}: {name}: wants {count} numbers, got {value!r}") from None
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise BopError(f"{where}: {name}: wants {count} finite numbers, got {value!r}")
    return numbers


def _rotation(matrix: np.ndarray, where: str) -> np.ndarray:
    """The nearest rotation; refuses what is further away than rounding explains."""
    u, _, vt = np.linalg.svd(matrix)
    nearest = u @ vt
    off = np.abs(nearest - matrix).max()
    if np.linalg.det(nearest) < 0 or off > _ROTATION_TOLERANCE:
        raise BopError(
            f"{where}: wants a rotation, got {matrix.tolist()} ({off:.2g} from orthogonal, "
            f"determinant {np.linalg.det(matrix):.3g})"
        )
    return nearest


def _decoded(path: Path, flag: int) -> np.ndarray:
    image = cv2.imread(str(path), flag)
    if image is None:
        raise BopError(f"{path}: cannot be decoded as an image")
    return image
