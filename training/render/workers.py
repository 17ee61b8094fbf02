"""Makes the images of a scene, here or in several processes; one that dies ends the run with an error."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2

from training.render.config import RenderConfig
from training.render.maker import ImageMaker
from training.render.views import ViewMaker
from training.render.writer import Record, write_image, write_view

_maker: ImageMaker | ViewMaker | None = None


def make_maker(config: RenderConfig, seed: int) -> ImageMaker | ViewMaker:
    """What makes the images of this kind."""
    return (ViewMaker if config.view == "object" else ImageMaker)(config, seed)


def _make(maker: ImageMaker | ViewMaker, folder: Path, number: int, index: int) -> Record:
    write = write_view if isinstance(maker, ViewMaker) else write_image
    return write(maker(index), folder, number, maker.config)


def _start(config: RenderConfig, seed: int) -> None:
    global _maker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started us
    os.environ["LP_NUM_THREADS"] = "1"  # llvmpipe: one thread for each of several processes
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _maker = make_maker(config, seed)


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)  # a parent killed with SIGKILL tells nobody


def _work(job: tuple[Path, int, int]) -> Record:
    folder, number, index = job
    return _make(_maker, folder, number, index)


class Workers:
    """One maker of images here, or one in each of several processes. A context manager."""

    def __init__(self, config: RenderConfig, seed: int, count: int) -> None:
        self.config, self.pool, self.maker = config, None, None
        if count > 1:
            context = multiprocessing.get_context("spawn")
            self.pool = ProcessPoolExecutor(count, context, _start, (config, seed))
        else:
            self.maker = make_maker(config, seed)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(wait=True, cancel_futures=True)
        else:
            self.maker.renderer.release()

    def write(self, folder: Path, indices: range) -> Iterator[Record]:
        """Writes images `indices` as numbers 0, 1, ... of a scene; yields their records in order.

        Raises BrokenProcessPool where a process was killed.
        """
        jobs = [(folder, number, index) for number, index in enumerate(indices)]
        if self.pool is not None:
            return self.pool.map(_work, jobs, chunksize=4)
        return (_make(self.maker, *job) for job in jobs)
