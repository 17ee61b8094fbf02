"""Renders whole BOP data sets: image i depends on (configuration, seed, i) alone, scenes appear complete or
not at all."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from training.render import pictures, shapes
from training.render.config import RenderConfig
from training.render.effects import camera_effects
from training.render.gl import Renderer
from training.render.labels import InstanceLabel, uncovered
from training.render.mesh_files import load_mesh, target_mesh, write_models
from training.render.sampling import sample_scene
from training.render.scene import TARGET, Stock, resting_rotations


@dataclass(frozen=True)
class Rendered:
    """One finished image: rgb (H, W, 3) uint8, depth (H, W) float32 m, K (3, 3), the instances."""

    rgb: np.ndarray
    depth: np.ndarray
    K: np.ndarray
    instances: list[InstanceLabel]


class ImageMaker:
    """Image number -> finished image; owns the renderer of one process."""

    def __init__(self, config: RenderConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        self.stock = make_stock(config)
        self.renderer = Renderer(self.stock, config.width, config.height, config.samples, config.shadows)

    def __call__(self, index: int) -> Rendered:
        rng = np.random.default_rng([self.seed, index])
        scene = sample_scene(self.config, self.stock, rng)
        scene, instances, seen = uncovered(self.renderer, scene, self.config.min_visibility)
        rgb = self.renderer.image(scene)
        if self.config.effects:
            rgb = camera_effects(rgb, rng, self.config.grey_probability)
        return Rendered(rgb, seen.depth, scene.K, instances)


def make_stock(config: RenderConfig) -> Stock:
    """Meshes and photographs that a configuration names, loaded."""
    target = target_mesh(config)
    meshes = {TARGET: target} | shapes.primitives()
    paths = (
        sorted(p for p in config.distractors.rglob("*") if p.suffix.lower() in (".ply", ".obj"))
        if config.distractors
        else []
    )
    meshes |= {f"user:{path}": load_mesh(path, "m") for path in paths}
    photos = pictures.load_photographs(config.pictures, config.pictures_split)
    return Stock(meshes, photos, tuple(f"user:{p}" for p in paths), resting_rotations(target))


def render_dataset(
    config: RenderConfig, out: Path, split: str, count: int, seed: int, workers: int = 1
) -> None:
    """Writes `count` images to <out>/<split>/ as BOP scenes, and <out>/models.

    Complete scenes of an earlier, interrupted run with the same configuration and seed are kept.
    Raises ValueError where <out>/<split> was rendered with another configuration or seed (naming the field).
    """
    folder = Path(out) / split
    _check_same_recipe(folder, config, seed)
    write_models(Path(out) / "models", config.object_id, target_mesh(config))
    todo = [
        (scene, indices)
        for scene, indices in scenes_of(count, config.images_per_scene)
        if not _is_complete(folder / f"{scene:06d}", len(indices))
    ]
    with (
        _Makers(config, seed, workers) as makers,
        tqdm(total=count, initial=count - sum(len(i) for _, i in todo), unit="img", smoothing=0.02) as bar,
    ):
        for scene, indices in todo:
            _render_scene(makers, folder, scene, indices, bar)


def scenes_of(count: int, per_scene: int) -> list[tuple[int, range]]:
    """(scene number, image numbers) of a data set."""
    return [(s, range(s * per_scene, min(count, (s + 1) * per_scene))) for s in range(-(-count // per_scene))]


def _check_same_recipe(folder: Path, config: RenderConfig, seed: int) -> None:
    path, wanted = folder / "render.json", config.to_json() | {"seed": seed}
    if path.exists():
        found = json.loads(path.read_text())
        for name in wanted.keys() | found.keys():
            if found.get(name) != wanted.get(name):
                raise ValueError(
                    f"{path}: {name}: the data there was rendered with {found.get(name)!r}, "
                    f"wanted {wanted.get(name)!r}; choose another folder or delete this one"
                )
        return
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(wanted, indent=1) + "\n")


def _is_complete(folder: Path, count: int) -> bool:
    path = folder / "scene_gt.json"
    return path.exists() and len(json.loads(path.read_text())) == count


def _render_scene(makers: _Makers, folder: Path, scene: int, indices: range, bar: tqdm) -> None:
    unfinished = folder / f".unfinished-{scene:06d}"
    shutil.rmtree(unfinished, ignore_errors=True)
    for part in ("rgb", "mask", "mask_visib", *(["depth"] if makers.config.depth else [])):
        (unfinished / part).mkdir(parents=True)
    records = []
    for record in makers.write(unfinished, indices):
        records.append(record)
        bar.update()
    for k, name in enumerate(("scene_camera", "scene_gt", "scene_gt_info")):
        rows = (f'  "{number}": {json.dumps(record[k])}' for number, record in enumerate(records))
        (unfinished / f"{name}.json").write_text("{\n" + ",\n".join(rows) + "\n}\n")
    shutil.rmtree(folder / f"{scene:06d}", ignore_errors=True)
    unfinished.rename(folder / f"{scene:06d}")


# -------------------------------------------------------------------- one image to disk

Record = tuple[dict, list, list]


def write_image(made: Rendered, folder: Path, number: int, config: RenderConfig) -> Record:
    """Picture and masks to `folder`; returns the entries for scene_camera, scene_gt and scene_gt_info
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
    return camera, [_gt(i, config.object_id) for i in made.instances], [_gt_info(i) for i in made.instances]


def _write(path: Path, image: np.ndarray, option: int, value: int) -> None:
    if not cv2.imwrite(str(path), image, [option, value]):
        raise OSError(f"{path}: could not be written")


def _gt(instance: InstanceLabel, object_id: int) -> dict:
    pose = instance.T_camera_object
    return {
        "cam_R_m2c": pose[:3, :3].reshape(-1).tolist(),
        "cam_t_m2c": (pose[:3, 3] * 1000).tolist(),
        "obj_id": object_id,
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


# -------------------------------------------------------------------- processes

_maker: ImageMaker | None = None


def _start_worker(config: RenderConfig, seed: int) -> None:
    global _maker
    cv2.setNumThreads(1)
    _maker = ImageMaker(config, seed)


def _work(job: tuple[Path, int, int]) -> Record:
    folder, number, index = job
    return write_image(_maker(index), folder, number, _maker.config)


class _Makers:
    """One ImageMaker here, or one in each of several processes with one thread apiece."""

    def __init__(self, config: RenderConfig, seed: int, workers: int) -> None:
        self.config, self.seed, self.workers, self.pool = config, seed, workers, None

    def __enter__(self) -> _Makers:
        if self.workers > 1:
            os.environ["LP_NUM_THREADS"] = "1"
            context = multiprocessing.get_context("spawn")
            self.pool = context.Pool(self.workers, _start_worker, (self.config, self.seed))
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.terminate()
            self.pool.join()

    def write(self, folder: Path, indices: range) -> Iterator[Record]:
        """Writes images `indices` as numbers 0, 1, ... of a scene; yields their records in order."""
        jobs = [(folder, number, index) for number, index in enumerate(indices)]
        if self.pool is not None:
            return self.pool.imap(_work, jobs, chunksize=4)
        if _maker is None or (_maker.config, _maker.seed) != (self.config, self.seed):
            _start_worker(self.config, self.seed)
        return map(_work, jobs)
