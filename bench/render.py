# SPDX-License-Identifier: Apache-2.0
"""Measure the renderer's images per second in one process: the time of each step, and the cost of
antialiasing.

    python -m bench.render [--pictures DIR] [--models DIR] [--out FILE]

Set LP_NUM_THREADS=1 for one thread of Mesa's llvmpipe. All lines are measured on the same scenes; ratios are
to the first line.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import cv2
import numpy as np

from bench.rows import common
from training.render.config import RenderConfig
from training.render.effects import camera_effects
from training.render.gl import Renderer
from training.render.labels import uncovered
from training.render.maker import ImageMaker, Rendered
from training.render.mesh_files import Target, write_models
from training.render.sampling import sample_scene
from training.render.shapes import torus
from training.render.views import ViewMaker
from training.render.writer import write_image, write_view

Item = TypeVar("Item")
Result = TypeVar("Result")


class Rate(NamedTuple):
    """Images per second of wall time, and milliseconds of CPU time per image, which a busy machine changes
    less."""

    images_per_second: float
    cpu_ms: float


def timed(work: Callable[[Item], Result], items: Iterable[Item]) -> tuple[Rate, list[Result]]:
    """Return the rate and the results of ``work`` on all items. It first does the first item once to warm
    up."""
    items = list(items)
    work(items[0])
    start, start_cpu = time.perf_counter(), time.process_time()
    results = [work(item) for item in items]
    wall, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    return Rate(len(items) / wall, 1000 * cpu / len(items)), results


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=Path, default=None, help="folder of photographs")
    parser.add_argument("--models", type=Path, default=None, help="models folder, for object views of these")
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    config = RenderConfig(pictures=args.pictures)
    with ImageMaker(config, 1) as maker:
        rows = dict(measure(maker, args.images)) | dict(measure_views(args.images, args.models))
        with maker.renderer.ctx as context:
            setting = f"{context.info['GL_RENDERER']}, {config.width}x{config.height}, {args.images} scenes"
    print(setting)
    first = next(iter(rows.values()))
    for name, rate in rows.items():
        times = rate.cpu_ms / first.cpu_ms
        print(f"{name:55s} {rate.images_per_second:7.1f} images/s {rate.cpu_ms:7.1f} ms CPU   x {times:.2f}")
    if args.out:
        results = [
            common(f"renderer, {name}", "none", "renderer", "cube renders", f"{setting}, synthetic")
            | rate._asdict()
            for name, rate in rows.items()
        ]
        args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def measure(maker: ImageMaker, count: int) -> Iterable[tuple[str, Rate]]:
    """Yield the name and rate of each step alone, and of the whole."""
    config, renderer = maker.config, maker.renderer
    rate, scenes = timed(
        lambda i: sample_scene(config, maker.stock, np.random.default_rng([1, i])), range(count)
    )
    with Renderer(maker.stock, config.width, config.height, samples=1, shadows=False) as plain:
        yield "colour, no antialiasing, no shadows", timed(plain.image, scenes)[0]
    yield f"colour, {config.samples} samples a pixel, shadows", timed(renderer.image, scenes)[0]
    yield "labels: masks, boxes, pixel counts", timed(lambda s: uncovered(renderer, s, 0.3), scenes)[0]
    yield "making up the scene and its pictures", rate
    images = [renderer.image(scene) for scene in scenes]
    rng = np.random.default_rng(0)
    yield "camera effects", timed(lambda image: camera_effects(image, rng), images)[0]
    with ImageMaker(dataclasses.replace(config, effects=False), 1) as without:
        yield "finished image without effects", timed(without, range(count))[0]
    rate, made = timed(maker, range(count))
    yield "finished image", rate
    with tempfile.TemporaryDirectory() as folder:
        for part in ("rgb", "mask", "mask_visib"):
            (Path(folder) / part).mkdir()
        yield "files of an image", timed(lambda m: _write(m, Path(folder), config), made)[0]
        yield (
            "finished image and its files",
            timed(lambda i: _write(maker(i), Path(folder), config), range(count))[0],
        )


def measure_views(count: int, models: Path | None) -> Iterable[tuple[str, Rate]]:
    """Yield rates of object views with their files: of a ring of 20,000 triangles, and of a models folder."""
    with tempfile.TemporaryDirectory() as folder:
        write_models(Path(folder) / "models", [Target(1, torus(0.14, 100, 100), {})])
        for part in ("rgb", "depth", "mask", "mask_visib"):
            (Path(folder) / part).mkdir()
        named = {"20,000 triangles": Path(folder) / "models", "given models": models}
        for name, mesh in ((name, mesh) for name, mesh in named.items() if mesh):
            config = RenderConfig(mesh=mesh, view="object", appearance="own", stand="upright")
            with ViewMaker(config, 1) as maker:
                write = partial(_write_view, maker, Path(folder))
                rate = timed(write, range(count))[0]
            yield f"object view and its files, {config.views.view_px} px, {name}", rate


def _write_view(maker: ViewMaker, folder: Path, index: int) -> None:
    write_view(maker(index), folder, 0, maker.config)


def _write(made: Rendered, folder: Path, config: RenderConfig) -> None:
    write_image(made, folder, 0, config)


if __name__ == "__main__":
    main()
