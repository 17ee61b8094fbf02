"""The training loop: one for every method and family, for one run or several side by side."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import torch
from lightning.fabric import Fabric
from torch.utils.data import DataLoader
from tqdm import tqdm

from pose_kd_ros.core.object_model import ObjectModel
from pose_kd_ros.evaluation.bop import Faults

from ..config import RunConfig
from ..data.augment import augmented, make_augmentation
from ..data.compose import ComposedDataset
from ..data.crops import CropDataset
from ..data.people_crops import PeopleDataset
from ..data.splits import load_split
from ..data.surface import code_reader
from ..data.views import Views
from ..render.interrupt import ctrl_c_between_steps
from .learner import Learner, check_shareable, make_learners
from .step import prepare
from .teacher import Told


class Stopped(Exception):
    """Ctrl-C: the run's state is on disk, the same command goes on from there."""


def make_loader(dataset: CropDataset, config: RunConfig, first: int, last: int, fabric: Fabric) -> DataLoader:
    """Batches of steps first..last: sample i of the run goes to the step i // batch_size, whoever loads
    it."""
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


def collated(dataset: CropDataset | PeopleDataset, samples: list[dict[str, torch.Tensor]]) -> dict:
    """A batch; ``faults``: what this loader process has skipped since its last."""
    return {**dataset.collate(samples), "faults": dataset.faults.news()}


@contextmanager
def faults_counted(
    dataset: CropDataset | PeopleDataset | None, folder: Path, fabric: Fabric
) -> Iterator[None]:
    """Say in the end how many images of a split this process's loaders had to skip, if any."""
    if dataset is None:
        yield
        return
    faults, before = dataset.faults, len(dataset.faults.kinds)
    people = isinstance(dataset, PeopleDataset)
    total = len(dataset.people.persons if people else dataset.images) + faults.images
    try:
        yield
    finally:
        if len(faults.kinds) > before:
            where = dataset.people.annotations if people else folder
            who = f" by process {fabric.global_rank}" if fabric.world_size > 1 else ""
            print(f"{where}: {faults.summary(total)}{who}", flush=True)


def on_device(fabric: Fabric, loader: DataLoader):
    """Batches moved to the device; ``make_loader`` has shared them among the processes already."""
    return fabric.setup_dataloaders(loader, use_distributed_sampler=False)


def _one_thread(_worker: int) -> None:
    # Ctrl-C reaches the whole group of processes; the loop decides when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


@contextmanager
def logs_written(learners: list[Learner]) -> Iterator[None]:
    """See to it that the last values are in the logs: the thread that writes them may die before."""
    try:
        yield
    finally:
        for learner in learners:
            learner.logger.finalize("success")


def agreed(fabric: Fabric, pressed: bool, asking: bool) -> bool:
    """Whether any process was told to stop: all end after the same step, or one would wait for the others.
    They ask each other with the log lines alone, since asking waits for the device."""
    if fabric.world_size == 1:
        return pressed
    return asking and bool(
        fabric.all_reduce(torch.tensor(float(pressed), device=fabric.device), reduce_op="max") > 0
    )


def augment(config: RunConfig, fabric: Fabric, augmentation, step: int, images: torch.Tensor) -> torch.Tensor:
    """This process's images of a step; what they draw depends on nothing before it, nor on who has them."""
    first = fabric.global_rank * len(images)
    return augmented(images, augmentation, config.seed * 1_000_003 + step, first, config.batch_size)


def launch(config: RunConfig) -> Fabric:
    """Set up devices and precision; refuses a batch that the processes cannot share equally."""
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
            f"batch_size {config.batch_size} does not divide among {fabric.world_size} processes"
        )
    torch.set_num_threads(config.threads)
    return fabric


def train(config: RunConfig) -> Path:
    """Train, or go on training, the run ``config`` describes; returns the final checkpoint's path.

    Raises Stopped on Ctrl-C with the state saved, ValueError on a run folder with other settings.
    """
    return train_together([config])[0]


def train_together(configs: list[RunConfig]) -> list[Path]:
    """Train several runs side by side on the same batches, each as it would be trained alone; returns their
    final checkpoints' paths.

    Teachers are asked once for all their students. One that is itself among the runs teaches while it learns.
    Raises as ``train``, and ValueError, naming the field, for runs that cannot share their batches.
    """
    check_shareable(configs)
    config = configs[0]  # of what all share
    fabric = launch(config)
    learners, teachers = make_learners(configs, fabric)
    last = max(each.config.steps for each in learners)
    first = min((each.start for each in learners if each.start < each.config.steps), default=last)
    dataset, validation = make_dataset(config, config.split), make_dataset(config, config.val_split, True)
    for learner in learners:
        learner.keep_settings()
    augmentation = make_augmentation(config.augment, fabric.device)
    batches = on_device(fabric, make_loader(dataset, config, first, last, fabric))
    names = " + ".join(each.config.name for each in learners)
    hidden = fabric.global_rank > 0
    for learner in learners:
        batches = learner.cost.counting_waits(batches)
    bar = tqdm(batches, initial=first, total=last, desc=names, unit="step", disable=hidden)
    splits = (dataset, config.split), (validation, config.val_split)
    with ExitStack() as stack:
        stop = stack.enter_context(ctrl_c_between_steps())
        stack.enter_context(logs_written(learners))
        for crops, split in splits:
            stack.enter_context(faults_counted(crops, config.data / split, fabric))
        for step, batch in enumerate(bar, first):
            dataset.faults.hear(batch["faults"])
            images = prepare(batch, partial(augment, config, fabric, augmentation, step))
            told = Told(teachers, images)
            active = [each for each in learners if each.start <= step < each.config.steps]
            for learner in active:
                outputs = learner.learn(step, images, batch, told)
                if (
                    learner.folder in teachers
                ):  # trained along: what it says while it learns is what it teaches
                    told[learner.folder] = outputs

            done = step + 1
            stopping = agreed(fabric, stop(), done % config.log_every == 0)
            if done % config.log_every == 0:
                bar.set_postfix(
                    {name: f"{v:.4f}" for each in active for name, v in each.report(done).items()}
                )
            # all together, students before their teachers: none is ahead of what it teaches or is taught
            if done % config.checkpoint_every == 0 or stopping or any(done == a.config.steps for a in active):
                for learner in reversed(active):
                    learner.save(done)
            if validation and active and done % config.val_every == 0:
                validate(fabric, active, validation, done)
            if stopping and done < last:
                raise Stopped(f"stopped after step {done} of {last}; the same command goes on from there")
    return [each.folder / "last.ckpt" for each in configs]


def make_dataset(config: RunConfig, split: str, val: bool = False) -> CropDataset | PeopleDataset | None:
    """The split as crops, None for an empty name; of people those to learn from or, ``val``, to watch."""
    if config.people:
        return make_people(config, val)
    composed = config.network.family == "surface"
    if not (split or composed):
        return None
    objects = config.load_objects()
    if len(objects) != config.network.classes:
        raise ValueError(
            f"{config.data}: {len(objects)} objects, but network.classes is {config.network.classes}"
        )
    if composed:
        return make_composed(config, objects, val)
    faults, tile_px = Faults(config.faults), config.tile_px if split == config.split else 0
    family = config.network.family
    reader = code_reader(config.data / "models", objects) if family == "dense" else None
    images = load_split(config.data / split, objects, faults, tile_px, config.seed, config.cache, reader)
    how = config.network.strides, config.crops, config.seed, faults, reader, family
    return CropDataset(images, objects, *how)


def make_composed(config: RunConfig, objects: list[ObjectModel], val: bool) -> ComposedDataset | None:
    """Crops composed of the split's object views; to watch, ``val``, of other views on other photographs."""
    split = config.compose.val_split if val else config.split
    if not split:
        return None
    views = Views(config.data / split)
    return ComposedDataset(
        views, objects, config.network.strides[0], config.crops, config.compose, config.seed, val
    )


def make_people(config: RunConfig, val: bool) -> PeopleDataset | None:
    """People to learn from or to watch as crops; None where there are none to watch."""
    if val and config.people.val_annotations is None:
        return None
    faults = Faults(config.faults)
    people = config.people.load(val, faults)
    count = len(people.skeleton.keypoints)
    if (config.network.keypoints, config.network.classes) != (count, 1):
        found = f"{config.network.keypoints} and {config.network.classes}"
        raise ValueError(f"network.keypoints, network.classes: people want {count} and 1, found {found}")
    if faults.kinds:
        print(f"{people.annotations}: {faults.summary(len(people.persons) + faults.images)}", flush=True)
    crops = config.people.crops
    if val:
        crops = replace(crops, flip=0.0, scale=0.0, rotated=0.0)
    return PeopleDataset(people, crops, config.seed, faults)


@torch.no_grad()
def validate(
    fabric: Fabric, learners: list[Learner], dataset: CropDataset, step: int, batches: int = 20
) -> None:
    """Log each learner's mean loss terms over the first batches of the validation split, not augmented."""
    loader = on_device(fabric, make_loader(dataset, learners[0].config, 0, batches, fabric))
    found = [[] for _ in learners]
    for batch in loader:
        dataset.faults.hear(batch["faults"])  # the next loader's processes know it then
        images = prepare(batch)
        for learner, terms in zip(learners, found):
            terms.append(learner.judged(images, batch))
    for learner, terms in zip(learners, found):
        means = fabric.all_reduce({f"val/{n}": torch.stack([t[n] for t in terms]).mean() for n in terms[0]})
        learner.log({name: mean.item() for name, mean in means.items()}, step)
