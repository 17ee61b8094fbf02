"""Renders whole BOP data sets.

Image i depends on (configuration, seed, i) alone; scenes appear complete or not at all.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tqdm import tqdm

from training.render import pictures
from training.render.config import RenderConfig
from training.render.mesh_files import symmetry_fields, target_mesh, write_models
from training.render.workers import Workers


def render_dataset(
    config: RenderConfig, out: Path, split: str, count: int, seed: int, workers: int = 1
) -> None:
    """Writes `count` images to <out>/<split>/ as BOP scenes, and <out>/models.

    Complete scenes of an earlier, interrupted run with the same configuration and seed are kept.
    Raises ValueError where <out>/<split> was rendered with another configuration or seed (naming the field).
    """
    folder = Path(out) / split
    mesh = target_mesh(config)
    symmetry = symmetry_fields(config, mesh)
    pictures.photograph_paths(config.pictures, config.pictures_split)
    _check_same_recipe(folder, config, seed)
    write_models(Path(out) / "models", config.object_id, mesh, symmetry)
    todo = [
        (scene, indices)
        for scene, indices in scenes_of(count, config.images_per_scene)
        if not _is_complete(folder / f"{scene:06d}", len(indices))
    ]
    with (
        Workers(config, seed, workers) as pool,
        tqdm(total=count, initial=count - sum(len(i) for _, i in todo), unit="img", smoothing=0.02) as bar,
    ):
        for scene, indices in todo:
            _render_scene(pool, folder, scene, indices, bar)


def scenes_of(count: int, per_scene: int) -> list[tuple[int, range]]:
    """(scene number, image numbers) of a data set."""
    return [(s, range(s * per_scene, min(count, (s + 1) * per_scene))) for s in range(-(-count // per_scene))]


def _check_same_recipe(folder: Path, config: RenderConfig, seed: int) -> None:
    path, wanted = folder / "render.json", config.to_json() | {"seed": seed}
    if path.exists():
        found = RenderConfig().to_json() | json.loads(
            path.read_text()
        )  # options that came later: their defaults
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


def _render_scene(workers: Workers, folder: Path, scene: int, indices: range, bar: tqdm) -> None:
    unfinished = folder / f".unfinished-{scene:06d}"
    shutil.rmtree(unfinished, ignore_errors=True)
    for part in ("rgb", "mask", "mask_visib", *(["depth"] if workers.config.depth else [])):
        (unfinished / part).mkdir(parents=True)
    records = []
    for record in workers.write(unfinished, indices):
        records.append(record)
        bar.update()
    for k, name in enumerate(("scene_camera", "scene_gt", "scene_gt_info")):
        rows = (f'  "{number}": {json.dumps(record[k])}' for number, record in enumerate(records))
        (unfinished / f"{name}.json").write_text("{\n" + ",\n".join(rows) + "\n}\n")
    shutil.rmtree(folder / f"{scene:06d}", ignore_errors=True)
    unfinished.rename(folder / f"{scene:06d}")
