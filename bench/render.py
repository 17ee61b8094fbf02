"""Images a second of the renderer, one process: where the time of a finished image goes, and what
antialiasing costs.

    python bench/render.py [--pictures DIR]       LP_NUM_THREADS=1 for one thread of Mesa's llvmpipe

Every line is measured on the same scenes; the ratios are to the first line.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np

from training.render.config import RenderConfig
from training.render.effects import camera_effects
from training.render.gl import Renderer
from training.render.labels import uncovered
from training.render.maker import ImageMaker, Rendered
from training.render.sampling import sample_scene
from training.render.writer import write_image


def timed(work: Callable[[object], object], items: Iterable[object]) -> tuple[float, list[object]]:
    """Images a second, and the results."""
    items = list(items)
    work(items[0])
    start = time.perf_counter()
    results = [work(item) for item in items]
    return len(items) / (time.perf_counter() - start), results


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=Path, default=None, help="folder of photographs")
    parser.add_argument("--images", type=int, default=60)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    config = RenderConfig(pictures=args.pictures)
    maker = ImageMaker(config, 1)
    rows = dict(measure(maker, args.images))
    print(f"{maker.renderer.ctx.info['GL_RENDERER']}, {config.width}x{config.height}, {args.images} scenes")
    first = next(iter(rows.values()))
    for name, rate in rows.items():
        print(f"{name:44s} {rate:7.1f} images/s   x {rate / first:.2f}")


def measure(maker: ImageMaker, count: int) -> Iterable[tuple[str, float]]:
    """(what, images a second) for each step alone and for the whole."""
    config, renderer = maker.config, maker.renderer
    rate, scenes = timed(
        lambda i: sample_scene(config, maker.stock, np.random.default_rng([1, i])), range(count)
    )
    plain = Renderer(maker.stock, config.width, config.height, samples=1, shadows=False)
    yield "colour, no antialiasing, no shadows", timed(plain.image, scenes)[0]
    yield f"colour, {config.samples} samples a pixel, shadows", timed(renderer.image, scenes)[0]
    yield "labels: masks, boxes, pixel counts", timed(lambda s: uncovered(renderer, s, 0.3), scenes)[0]
    yield "making up the scene and its pictures", rate
    images = [renderer.image(scene) for scene in scenes]
    rng = np.random.default_rng(0)
    yield "camera effects", timed(lambda image: camera_effects(image, rng), images)[0]
    without = ImageMaker(dataclasses.replace(config, effects=False), 1)
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


def _write(made: Rendered, folder: Path, config: RenderConfig) -> None:
    write_image(made, folder, 0, config)


if __name__ == "__main__":
    main()
