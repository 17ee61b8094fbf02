# SPDX-License-Identifier: Apache-2.0
"""Renders whole BOP data sets.

Image i depends on (configuration, seed, i) alone; scenes appear complete or not at all.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from pose_kd_ros.provenance import write_whole
from training.render import pictures
from training.render.config import RenderConfig
from training.render.mesh_files import check_models, content_hash, load_targets, write_models
from training.render.workers import Workers

from .files import read_object
from .interrupt import ctrl_c_between_steps

MESH = "mesh_sha256"  # in render.json: the path alone does not identify the content


def render_dataset(
    config: RenderConfig,
    out: Path,
    split: str,
    count: int,
    seed: int,
    workers: int = 0,
    shard: tuple[int, int] = (0, 1),
) -> None:
    """Writes `count` images to <out>/<split>/ as BOP scenes, and <out>/models, in `workers` processes (0: in
    this one). With a shard (i, n), every n-th scene from i on, to <out>/<split>.shard-i-of-n/
    (training.shards merges them).

    Complete scenes of an earlier, interrupted run with the same configuration and seed are kept. Raises
    KeyboardInterrupt after the image during which Ctrl-C was pressed. Raises ValueError where <out>/<split>
    was rendered with another configuration, mesh or seed (named) or holds scenes that `count` images do not
    have, and where <out>/models is of other objects; ChildProcessError, naming the image, where a process was
    killed or aborted.
    """
    folder = Path(out) / split
    if shard[1] > 1:
        folder = Path(out) / f"{split}.shard-{shard[0]}-of-{shard[1]}"
    targets = load_targets(config)
    pictures.photograph_paths(config.pictures, config.pictures_split)
    recipe = config.to_json() | {"seed": seed, MESH: content_hash(targets)}
    _check_same_recipe(folder / "render.json", recipe)
    scenes = scenes_of(count, config.images_per_scene)[shard[0] :: shard[1]]
    _check_no_surplus(folder, scenes)
    check_models(Path(out) / "models", targets)
    _keep_recipe(folder / "render.json", recipe)
    if shard[1] > 1:
        write_whole(folder / "shard.json", json.dumps({"count": count}) + "\n")
    write_models(Path(out) / "models", targets)
    todo = [
        (scene, indices)
        for scene, indices in scenes
        if not is_complete(folder / f"{scene:06d}", len(indices))
    ]
    total = sum(len(indices) for _, indices in scenes)
    with (
        ctrl_c_between_steps() as pressed,
        Workers(config, seed, workers) as pool,
        tqdm(total=total, initial=total - sum(len(i) for _, i in todo), unit="img", smoothing=0.02) as bar,
    ):
        for scene, indices in todo:
            _render_scene(pool, folder, scene, indices, bar, pressed)


def scenes_of(count: int, per_scene: int) -> list[tuple[int, range]]:
    """Yield (scene number, numbers of its images) of a data set."""
    return [(s, range(s * per_scene, min(count, (s + 1) * per_scene))) for s in range(-(-count // per_scene))]


def _check_same_recipe(path: Path, wanted: dict) -> None:
    if not path.exists():
        return
    found = RenderConfig().to_json() | read_object(path)  # defaults of options that were added later
    found.setdefault(MESH, wanted[MESH])  # rendered before the hash was kept
    for name in sorted(wanted.keys() | found.keys()):
        if found.get(name) != wanted.get(name):
            raise ValueError(
                f"{path}: {name}: wanted {wanted.get(name)!r}, found data rendered with {found.get(name)!r}; "
                "choose another folder or delete this one"
            )


def _check_no_surplus(folder: Path, scenes: list[tuple[int, range]]) -> None:
    """Raise ValueError for more scenes than wanted: a reader takes all scenes that it finds."""
    there = {int(path.parent.name): len(read_object(path)) for path in folder.glob("[0-9]*/scene_gt.json")}
    wanted = {scene: len(indices) for scene, indices in scenes}
    if any(images > wanted.get(scene, 0) for scene, images in there.items()):
        raise ValueError(
            f"{folder}: wanted {sum(wanted.values())} images in {len(wanted)} scenes, "
            f"found {sum(there.values())} in {len(there)}; raise --count, choose another folder or "
            "delete the other scenes"
        )


def _keep_recipe(path: Path, recipe: dict) -> None:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(recipe, indent=1) + "\n")


def is_complete(folder: Path, count: int) -> bool:
    path = folder / "scene_gt.json"
    return path.exists() and len(read_object(path)) == count


def _render_scene(
    workers: Workers, folder: Path, scene: int, indices: range, bar: tqdm, pressed: Callable[[], bool]
) -> None:
    unfinished = folder / f".unfinished-{scene:06d}"
    shutil.rmtree(unfinished, ignore_errors=True)
    for part in ("rgb", "mask", "mask_visib", *(["depth"] if workers.config.has_depth else [])):
        (unfinished / part).mkdir(parents=True)
    records = []
    for record in workers.write(unfinished, indices):
        records.append(record)
        bar.update()
        if pressed():
            raise KeyboardInterrupt
    for k, name in enumerate(("scene_camera", "scene_gt", "scene_gt_info")):
        rows = (f'  "{number}": {json.dumps(record[k])}' for number, record in enumerate(records))
        (unfinished / f"{name}.json").write_text("{\n" + ",\n".join(rows) + "\n}\n")
    shutil.rmtree(folder / f"{scene:06d}", ignore_errors=True)
    unfinished.rename(folder / f"{scene:06d}")
