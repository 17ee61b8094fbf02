# SPDX-License-Identifier: Apache-2.0
"""Make the images of a scene, in this process or in several. If one dies, the run ends with an error."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, MutableSequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from pathlib import Path

import cv2

from training.render.config import RenderConfig
from training.render.maker import ImageMaker
from training.render.views import ViewMaker
from training.render.writer import Record, write_image, write_view

CLEAN = (None, 0, -signal.SIGTERM)  # with SIGTERM the pool ends those that are left
_maker: ImageMaker | ViewMaker | None = None
_taken: MutableSequence[int] = []  # by image of the scene: the process that works on it, or 0


def make_maker(config: RenderConfig, seed: int) -> ImageMaker | ViewMaker:
    """Return what makes the images that the configuration asks for."""
    return (ViewMaker if config.view == "object" else ImageMaker)(config, seed)


def _make(maker: ImageMaker | ViewMaker, folder: Path, number: int, index: int) -> Record:
    if isinstance(maker, ViewMaker):
        return write_view(maker(index), folder, number, maker.config)
    return write_image(maker(index), folder, number, maker.config)


def _start(config: RenderConfig, seed: int, alone: bool, taken: MutableSequence[int]) -> None:
    global _maker, _taken
    faulthandler.enable()  # a graphics driver may abort
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started us
    if not alone:
        os.environ["LP_NUM_THREADS"] = "1"  # llvmpipe: one thread for each of several processes
        cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _maker, _taken = make_maker(config, seed), taken


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # this runs in a worker
    parent.join()
    os._exit(1)  # a parent that is killed with SIGKILL cannot end its workers


def _work(job: tuple[Path, int, int]) -> Record:
    assert _maker is not None  # ``_start`` made it
    folder, number, index = job
    _taken[number] = os.getpid()
    record = _make(_maker, folder, number, index)
    _taken[number] = 0
    return record


class Workers:
    """Holds one maker of images in each of `count` processes, or with 0 one in this process, which then ends
    if its graphics driver aborts. A context manager."""

    def __init__(self, config: RenderConfig, seed: int, count: int) -> None:
        self.config = config
        self.pool: ProcessPoolExecutor | None = None
        self.maker: ImageMaker | ViewMaker | None = None
        if count:
            context = multiprocessing.get_context("spawn")
            self.taken = context.Array("q", config.images_per_scene, lock=False)
            arguments = (config, seed, count == 1, self.taken)
            self.pool = ProcessPoolExecutor(count, context, _start, arguments)
            self.processes: set[BaseProcess] = set()
        else:
            self.maker = make_maker(config, seed)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(wait=True, cancel_futures=True)
        elif self.maker is not None:
            self.maker.__exit__()

    def write(self, folder: Path, indices: range) -> Iterator[Record]:
        """Write the images `indices` as numbers 0, 1, ... of a scene; yield their records in order.

        Raises ChildProcessError, which names the image, if a process was killed or aborted.
        """
        jobs = [(folder, number, index) for number, index in enumerate(indices)]
        if self.maker is not None:
            for job in jobs:
                yield _make(self.maker, *job)
            return
        assert self.pool is not None  # without a maker here, there are processes
        try:
            results = self.pool.map(_work, jobs, chunksize=4)
            self.processes.update(multiprocessing.active_children())
            yield from results
        except BrokenProcessPool as error:
            raise ChildProcessError(self._what_died(indices)) from error

    def _what_died(self, indices: range) -> str:
        for process in self.processes:
            process.join(5)
        ends = {p.pid: how_it_ended(p.exitcode) for p in self.processes if p.exitcode not in CLEAN}
        at = [index for index, pid in zip(indices, self.taken) if pid in ends]
        where = f"image {at[0]}" if at else f"images {indices[0]} to {indices[-1]}"
        how = next(iter(ends.values()), "an error")
        return (
            f"{where}: wanted a picture, found the process that made it ended by {how}, see above; "
            "the same command goes on where this one was"
        )


def how_it_ended(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
