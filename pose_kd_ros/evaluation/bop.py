"""The one reader of BOP data sets in scene folders. Millimetres become metres here and nowhere else.

Source: github.com/thodan/bop_toolkit, docs/bop_datasets_format.md.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.pose import make_pose, project_to_so3

MM = 1e-3
PICTURES = ("rgb", "gray")


@dataclass(frozen=True)
class BopInstance:
    """One annotated object. T_camera_object (4, 4) metres; boxes (x, y, w, h) px, None where scene_gt_info is missing;
    visib_fract in [0, 1] (1 where unknown); mask_visib_path may not exist in data sets without masks."""

    object_id: int
    T_camera_object: np.ndarray
    bbox_obj: np.ndarray | None
    bbox_visib: np.ndarray | None
    visib_fract: float
    mask_visib_path: Path


@dataclass(frozen=True)
class BopImage:
    """One image. K (3, 3); depth_scale: metres per unit of the depth image."""

    scene_id: int
    image_id: int
    rgb_path: Path
    depth_path: Path
    K: np.ndarray
    depth_scale: float
    instances: tuple[BopInstance, ...]


@dataclass(frozen=True)
class ModelInfo:
    """One entry of models_info.json, metres. symmetries_discrete (S, 4, 4), identity first; symmetries_continuous:
    (axis (3,), offset (3,)) pairs."""

    diameter_m: float
    box_min: np.ndarray
    box_size: np.ndarray
    symmetries_discrete: np.ndarray
    symmetries_continuous: tuple[tuple[np.ndarray, np.ndarray], ...]


class BopDataset:
    """A split folder (``<dataset>/<split>``): ``images``, by scene and image number."""

    def __init__(self, root):
        self.root = Path(root)
        scenes = sorted(p for p in self.root.glob("*") if p.is_dir() and p.name.isdigit())
        if not scenes:
            raise ValueError(f"{self.root}: no scene folders (000000, 000001, ...): not a BOP split")
        self.images = [image for scene in scenes for image in load_scene(scene)]


def load_scene(folder: Path) -> list[BopImage]:
    """Read one scene folder; scene_gt.json may be missing (then no instances), scene_camera.json may not."""
    cameras = read_json(folder / "scene_camera.json")
    truth = read_json(folder / "scene_gt.json") if (folder / "scene_gt.json").exists() else {}
    info = read_json(folder / "scene_gt_info.json") if (folder / "scene_gt_info.json").exists() else {}
    pictures = {int(p.stem): p for kind in PICTURES for p in (folder / kind).glob("*") if p.stem.isdigit()}
    images = []
    for key in sorted(cameras, key=int):
        if int(key) not in pictures:
            raise ValueError(f"{folder}: scene_camera.json names image {key}, but there is no {' or '.join(PICTURES)} file")
        images.append(_image(folder, key, pictures[int(key)], cameras[key], truth.get(key, []), info.get(key)))
    return images


def _image(folder: Path, key: str, picture: Path, camera: dict, truth: list, info: list | None) -> BopImage:
    where = f"{folder / 'scene_camera.json'}: image {key}"
    if info is not None and len(info) != len(truth):
        raise ValueError(f"{folder / 'scene_gt_info.json'}: image {key}: {len(info)} entries, scene_gt.json has {len(truth)}")
    instances = tuple(_instance(folder, int(key), i, entry, info[i] if info else None) for i, entry in enumerate(truth))
    return BopImage(int(folder.name), int(key), picture, folder / "depth" / f"{int(key):06d}.png",
                    numbers(camera, "cam_K", where, (3, 3)), float(camera.get("depth_scale", 1.0)) * MM, instances)


def _instance(folder: Path, image: int, index: int, entry: dict, info: dict | None) -> BopInstance:
    where = f"{folder / 'scene_gt.json'}: image {image}, entry {index}"
    rotation = project_to_so3(numbers(entry, "cam_R_m2c", where, (3, 3)))
    pose = make_pose(rotation, numbers(entry, "cam_t_m2c", where, (3,)) * MM)
    boxes = [None if info is None else np.asarray(info[name], float) for name in ("bbox_obj", "bbox_visib")]
    visible = 1.0 if info is None else float(info["visib_fract"])
    mask = folder / "mask_visib" / f"{image:06d}_{index:06d}.png"
    return BopInstance(int(field(entry, "obj_id", where)), pose, *boxes, visible, mask)


def load_models_info(path) -> dict[int, ModelInfo]:
    """Read models_info.json; returns {object id: ModelInfo}."""
    return {int(key): _model_info(entry, f"{path}: object {key}") for key, entry in read_json(Path(path)).items()}


def _model_info(entry: dict, where: str) -> ModelInfo:
    low = np.array([field(entry, f"min_{axis}", where) for axis in "xyz"], float) * MM
    size = np.array([field(entry, f"size_{axis}", where) for axis in "xyz"], float) * MM
    discrete = [np.eye(4)]
    for symmetry in entry.get("symmetries_discrete", []):
        matrix = np.asarray(symmetry, float).reshape(4, 4)
        discrete.append(make_pose(project_to_so3(matrix[:3, :3]), matrix[:3, 3] * MM))
    continuous = tuple((np.asarray(s["axis"], float), np.asarray(s["offset"], float) * MM)
                       for s in entry.get("symmetries_continuous", []))
    return ModelInfo(float(field(entry, "diameter", where)) * MM, low, size, np.stack(discrete), continuous)


def load_targets(path) -> list[dict[str, int]]:
    """Read a test_targets file: a list of {scene_id, im_id, obj_id, inst_count}."""
    targets = read_json(Path(path))
    for index, target in enumerate(targets):
        for name in ("scene_id", "im_id", "obj_id", "inst_count"):
            field(target, name, f"{path}: target {index}")
    return targets


def read_json(path: Path):
    """Decode a JSON file; raises ValueError that names it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path}: missing") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from error


def field(entry: dict, name: str, where: str):
    """Return ``entry[name]`` or raise ValueError that says where it is missing."""
    if name not in entry:
        raise ValueError(f"{where}: no field {name!r}, found {sorted(entry)}")
    return entry[name]


def numbers(entry: dict, name: str, where: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return a field as finite floats of ``shape``, or raise ValueError."""
    values = np.asarray(field(entry, name, where), float)
    if values.size != np.prod(shape) or not np.isfinite(values).all():
        raise ValueError(f"{where}: {name}: wanted {int(np.prod(shape))} finite numbers, found {values.size}")
    return values.reshape(shape)
