# SPDX-License-Identifier: Apache-2.0
"""The training loop: one for every method and family, for one run or several side by side."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import cv2
import torch
from lightning.fabric import Fabric
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..config import RunConfig
from ..data.augment import augmented, make_augmentation
from ..families import TrainingData, family_of
from ..render.interrupt import ctrl_c_between_steps
from .learner import Learner, check_shareable, load_teachers, make_learner, teacher_folder
from .parallel import mean_terms
from .step import prepare
from .teacher import TeacherOutputs


class Stopped(Exception):
    """Ctrl-C: the run's state is on disk, and the same command goes on from there."""


def make_loader(
    dataset: TrainingData, config: RunConfig, first: int, last: int, fabric: Fabric
) -> DataLoader:
    """Return this process's batches of steps first..last.

    Sample i of the run belongs to step i // batch_size, whichever process loads it.
    """
    share = config.batch_size // fabric.world_size
    starts = range(
        first * config.batch_size + fabric.global_rank * share, last * config.batch_size, config.batch_size
    )
    batches = [list(range(start, start + share)) for start in starts]
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=partial(collated, dataset),
        num_workers=config.workers,
        worker_init_fn=_one_thread,
        pin_memory=fabric.device.type == "cuda",
    )


def collated(dataset: TrainingData, samples: list[dict[str, torch.Tensor]]) -> dict:
    """Return a batch; its ``faults``: what this loader process has skipped since its last batch."""
    return {**dataset.collate(samples), "faults": dataset.faults.news()}


@contextmanager
def faults_counted(dataset: TrainingData | None, fabric: Fabric) -> Iterator[None]:
    """Print at the end how many images the loaders of this process had to skip, if any."""
    if dataset is None:
        yield
        return
    faults, before = dataset.faults, len(dataset.faults.kinds)
    total = dataset.count + faults.images
    try:
        yield
    finally:
        if len(faults.kinds) > before:
            who = f" by process {fabric.global_rank}" if fabric.world_size > 1 else ""
            print(f"{dataset.source}: {faults.summary(total)}{who}", flush=True)


def on_device(fabric: Fabric, loader: DataLoader):
    """Move batches to the device; ``make_loader`` has shared them among the processes already."""
    return fabric.setup_dataloaders(loader, use_distributed_sampler=False)


def _one_thread(_worker: int) -> None:
    # Ctrl-C reaches the whole group of processes; the loop decides when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


@contextmanager
def logs_written(learners: list[Learner]) -> Iterator[None]:
    """Write the last values to the logs at the end; their thread alone may be killed before it has done
    so."""
    try:
        yield
    finally:
        for learner in learners:
            learner.logger.finalize("success")


def agreed(fabric: Fabric, pressed: bool, asking: bool) -> bool:
    """Return whether any process was told to stop: all must end after the same step, or one would wait for
    the others.

    They ask each other only when they log, since asking waits for the device.
    """
    if fabric.world_size == 1:
        return pressed
    if not asking:
        return False
    pressed_by_any = fabric.all_reduce(torch.tensor(float(pressed), device=fabric.device), reduce_op="max")
    assert isinstance(pressed_by_any, torch.Tensor)  # as its argument
    return bool(pressed_by_any > 0)


def augment(config: RunConfig, fabric: Fabric, augmentation, step: int, images: torch.Tensor) -> torch.Tensor:
    """Augment this process's images of a step; the draw depends only on the step and the image's place in
    it."""
    first = fabric.global_rank * len(images)
    return augmented(images, augmentation, config.seed * 1_000_003 + step, first, config.batch_size)


def launch(config: RunConfig) -> Fabric:
    """Set up devices and precision; raise ValueError for a batch that the processes cannot share equally."""
    fabric = Fabric(
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.num_nodes,
        precision=config.precision,
    )
    fabric.launch()
    capability = torch.backends.cpu.get_cpu_capability()
    emulated = fabric.device.type == "cpu" and not capability.startswith("AVX512")
    if emulated and config.precision == "bf16-mixed" and fabric.global_rank == 0:
        print(f"this CPU ({capability}) emulates bf16: --precision 32-true is far faster", flush=True)
    if config.batch_size % fabric.world_size:
        raise ValueError(
            f"batch_size: wanted a multiple of the {fabric.world_size} processes, found {config.batch_size}"
        )
    torch.set_num_threads(config.threads)
    return fabric


def train(config: RunConfig) -> Path:
    """Train, or go on training, the run that ``config`` describes; return the final checkpoint's path.

    Raises Stopped on Ctrl-C with the state saved, ValueError on a run folder with other settings.
    """
    return train_together([config])[0]


def train_together(configs: list[RunConfig]) -> list[Path]:
    """Train several runs side by side on the same batches, each as it would be trained alone; return the
    paths of their final checkpoints.

    A teacher runs once for all its students. Raises as ``train``, and ValueError, naming the field, for runs
    that cannot share their batches.
    """
    check_shareable(configs)
    config = configs[0]  # for the settings that all share
    fabric = launch(config)
    teachers = load_teachers(configs, fabric)
    folders = [teacher_folder(each) for each in configs]
    taught_by = [None if folder is None else teachers[folder] for folder in folders]
    learners = [make_learner(each, fabric, teacher) for each, teacher in zip(configs, taught_by)]
    last = max(each.steps for each in configs)
    first = min((each.start for each in learners if each.start < each.config.steps), default=last)
    dataset, validation = make_dataset(config, config.split), make_dataset(config, config.val_split, True)
    if dataset is None:
        raise ValueError(f"{config.name}: split: wanted the name of a split to train on, found none")
    for learner in learners:
        learner.write_settings()
    augmentation = make_augmentation(config.augment, fabric.device)
    batches = on_device(fabric, make_loader(dataset, config, first, last, fabric))
    for learner in learners:
        batches = learner.cost.counting_waits(batches)
    names, hidden = " + ".join(each.name for each in configs), fabric.global_rank > 0
    bar = tqdm(batches, initial=first, total=last, desc=names, unit="step", disable=hidden)
    with ExitStack() as stack:
        stop = stack.enter_context(ctrl_c_between_steps())
        stack.enter_context(logs_written(learners))
        for each in (dataset, validation):
            stack.enter_context(faults_counted(each, fabric))
        for step, batch in enumerate(bar, first):
            dataset.faults.hear(batch["faults"])
            images = prepare(batch, partial(augment, config, fabric, augmentation, step))
            teacher_outputs = TeacherOutputs(teachers, images)
            active = [each for each in learners if each.start <= step < each.config.steps]
            for learner in active:
                learner.learn(step, images, batch, teacher_outputs)

            done = step + 1
            stopping = agreed(fabric, stop(), done % config.log_every == 0)
            if done % config.log_every == 0:
                values = {name: value for each in active for name, value in each.report(done).items()}
                bar.set_postfix({name: f"{value:.4f}" for name, value in values.items()})
            if done % config.checkpoint_every == 0 or stopping or any(done == a.config.steps for a in active):
                for learner in active:
                    learner.save(done)
            if validation and active and done % config.val_every == 0:
                validate(fabric, active, validation, done)
            if stopping and done < last:
                raise Stopped(f"stopped after step {done} of {last}; the same command goes on from there")
    return [each.folder / "last.ckpt" for each in configs]


def make_dataset(config: RunConfig, split: str, val: bool = False) -> TrainingData | None:
    """Return the samples of a split, None for an empty name; val: for validation, not to train on."""
    return family_of(config).make_dataset(config, split, val)


@torch.no_grad()
def validate(
    fabric: Fabric, learners: list[Learner], dataset: TrainingData, step: int, batches: int = 20
) -> None:
    """Log each learner's mean loss terms over the first batches of the validation split, not augmented."""
    loader = on_device(fabric, make_loader(dataset, learners[0].config, 0, batches, fabric))
    found: list[list[dict[str, torch.Tensor]]] = [[] for _ in learners]
    for batch in loader:
        dataset.faults.hear(batch["faults"])  # so that the next loader's processes know them
        images = prepare(batch)
        for learner, terms in zip(learners, found):
            terms.append(learner.validation_terms(images, batch))
    for learner, terms in zip(learners, found):
        means = {f"val/{n}": torch.stack([t[n] for t in terms]).mean() for n in terms[0]}
        learner.log({name: mean.item() for name, mean in mean_terms(fabric, means).items()}, step)
