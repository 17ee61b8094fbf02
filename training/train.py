"""The training loop: one for every method and family."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import cv2
import torch
from lightning.fabric import Fabric
from lightning.fabric.loggers import TensorBoardLogger
from torch.utils.data import DataLoader
from tqdm import tqdm

from pose_kd_ros.evaluation.bop import Faults

from . import checkpoint
from .config import RunConfig, check_same, to_json
from .data.augment import make_augmentation
from .data.crops import CropDataset
from .data.objects import load_objects
from .data.splits import load_split
from .data.targets import collate
from .models.network import KeypointNetwork
from .step import losses
from .teacher import Distillation


class Stopped(Exception):
    """Ctrl-C: the run's state is on disk, the same command goes on from there."""


def one_cycle(config: RunConfig, step: int) -> float:
    """Learning rate at ``step``: a linear rise to ``lr`` over the warm-up, then a cosine fall to zero."""
    rise = max(1.0, config.warmup * config.steps)
    if step < rise:
        return config.lr * (step + 1) / rise
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1.0, config.steps - rise)))


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
        collate_fn=collate,
        num_workers=config.workers,
        worker_init_fn=_one_thread,
        pin_memory=fabric.device.type == "cuda",
    )


def on_device(fabric: Fabric, loader: DataLoader):
    """Batches moved to the device; ``make_loader`` has shared them among the processes already."""
    return fabric.setup_dataloaders(loader, use_distributed_sampler=False)


def _one_thread(_worker: int) -> None:
    # Ctrl-C reaches the whole group of processes; the loop decides when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


@contextmanager
def ctrl_c_between_steps() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether Ctrl-C was pressed, so that no step is left half done."""
    pressed = []
    before = signal.signal(signal.SIGINT, lambda *_: pressed.append(True))
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)


def agreed(fabric: Fabric, pressed: bool) -> bool:
    """Whether any process was told to stop: all end after the same step, or one would wait for the others."""
    if fabric.world_size == 1:
        return pressed
    return bool(fabric.all_reduce(torch.tensor(float(pressed), device=fabric.device), reduce_op="max") > 0)


def launch(config: RunConfig) -> Fabric:
    """Set up devices and precision; refuses a batch that the processes cannot share equally."""
    logger = TensorBoardLogger(config.runs, name=config.name, version="")
    fabric = Fabric(
        accelerator=config.accelerator, devices=config.devices, precision=config.precision, loggers=logger
    )
    fabric.launch()
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
    fabric = launch(config)
    fabric.seed_everything(config.seed, verbose=False)
    network = KeypointNetwork(config.network).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    distillation = with_teacher(config, fabric, optimizer)
    network, optimizer = fabric.setup(network, optimizer)
    start = resume(config, fabric, network, optimizer, distillation)
    dataset, validation = (make_dataset(config, split) for split in (config.split, config.val_split))
    augmentation = make_augmentation(config.augment).to(fabric.device)

    batches = on_device(fabric, make_loader(dataset, config, start, config.steps, fabric))
    bar = tqdm(
        batches,
        initial=start,
        total=config.steps,
        desc=config.name,
        unit="step",
        disable=fabric.global_rank > 0,
    )
    with ctrl_c_between_steps() as stop:
        for step, batch in enumerate(bar, start):
            # What a step draws depends on nothing before it, and differs between processes.
            torch.manual_seed(config.seed * 1_000_003 + step + 500_009 * fabric.global_rank)
            for group in optimizer.param_groups:
                group["lr"] = one_cycle(config, step)
            terms = losses(network, config.network.strides, batch, config.weights, augmentation, distillation)
            optimizer.zero_grad(set_to_none=True)
            fabric.backward(terms["total"])
            fabric.clip_gradients(network, optimizer, max_norm=config.clip)
            optimizer.step()

            done, stopping = step + 1, agreed(fabric, stop())
            if done % config.log_every == 0:
                report(fabric, bar, terms, done, optimizer.param_groups[0]["lr"])
            if done % config.checkpoint_every == 0 or done == config.steps or stopping:
                save(config, fabric, network, optimizer, distillation, done)
            if validation and done % config.val_every == 0:
                fabric.log_dict(validate(config, fabric, network, validation), done)
            if stopping and done < config.steps:
                raise Stopped(
                    f"stopped after step {done} of {config.steps}; the same command goes on from there"
                )
    return config.folder / "last.ckpt"


def make_dataset(config: RunConfig, split: str) -> CropDataset | None:
    """The split as crops; None for an empty name."""
    if not split:
        return None
    objects = load_objects(config.data, only=config.objects)
    if len(objects) != config.network.classes:
        raise ValueError(
            f"{config.data}: {len(objects)} objects, but network.classes is {config.network.classes}"
        )
    faults, tile_px = Faults(config.faults), config.tile_px if split == config.split else 0
    images = load_split(config.data / split, objects, faults, tile_px, config.seed, config.cache)
    return CropDataset(images, objects, config.network.strides, config.crops, config.seed, faults)


def with_teacher(config: RunConfig, fabric: Fabric, optimizer) -> Distillation | None:
    """The teacher on the run's device; what trains along with the student joins the optimizer."""
    distillation = Distillation.make(config)
    if distillation is None:
        return None
    features = distillation.features
    if features is not None:
        optimizer.add_param_group({"params": list(features.parameters())})
        features = fabric.setup_module(features)
    teacher = distillation.teacher.to(fabric.device, memory_format=torch.channels_last)
    return replace(distillation, teacher=teacher, features=features, autocast=fabric.autocast)


def resume(config: RunConfig, fabric: Fabric, network, optimizer, distillation: Distillation | None) -> int:
    """Load the run's last checkpoint, else the weights it starts from, if any; return the step to go on
    from."""
    config.folder.mkdir(parents=True, exist_ok=True)
    kept, last = config.folder / "config.json", config.folder / "last.ckpt"
    if kept.exists():
        check_same(config, kept.read_text(encoding="utf-8"), config.folder)
    if not last.exists():
        if config.init:
            start_from(network, checkpoint.load(config.init)["network"], config)
        if fabric.global_rank == 0:  # only now: a run that cannot start leaves nothing to disagree with
            kept.write_text(to_json(config), encoding="utf-8")
        return 0
    state = checkpoint.load(last)
    if distillation and state.get("teacher_step") != distillation.teacher_step:
        raise ValueError(
            f"{last}: its teacher had been trained to step {state.get('teacher_step')}, "
            f"{config.distill.teacher} is at {distillation.teacher_step} now; start a run of another --name"
        )
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    if distillation and distillation.features is not None:
        distillation.features.load_state_dict(state["features"])
    return state["step"]


def start_from(network, weights: dict[str, torch.Tensor], config: RunConfig) -> None:
    """Load another run's weights, or those of its backbone; raises ValueError where they do not fit."""
    prefix = "backbone." if config.init_part == "backbone" else ""
    taken = {name: value for name, value in weights.items() if name.startswith(prefix)}
    wanted = {name for name in network.state_dict() if name.startswith(prefix)}
    try:
        if taken.keys() != wanted:
            raise RuntimeError(f"differing parts: {sorted(taken.keys() ^ wanted)[:4]}")
        network.load_state_dict(taken, strict=not prefix)
    except RuntimeError as error:
        raise ValueError(f"{config.init}: not weights of this {config.init_part} ({error})") from error


def save(
    config: RunConfig, fabric: Fabric, network, optimizer, distillation: Distillation | None, step: int
) -> None:
    """Write the run's state; only the first process does."""
    if fabric.global_rank == 0:
        state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
        if distillation:
            state["teacher_step"] = distillation.teacher_step
        if distillation and distillation.features is not None:
            state["features"] = distillation.features.state_dict()
        checkpoint.save(config.folder / "last.ckpt", state)


def report(fabric: Fabric, bar: tqdm, terms: dict[str, torch.Tensor], step: int, lr: float) -> None:
    """Show and log the step's named terms."""
    values = {name: term.item() for name, term in terms.items()}
    fabric.log_dict({f"train/{name}": value for name, value in values.items()} | {"lr": lr}, step)
    bar.set_postfix({name: f"{value:.4f}" for name, value in values.items()})


@torch.no_grad()
def validate(
    config: RunConfig, fabric: Fabric, network, dataset: CropDataset, batches: int = 20
) -> dict[str, float]:
    """Mean loss terms over the first batches of the validation split, without augmentation."""
    loader = on_device(fabric, make_loader(dataset, config, 0, batches, fabric))
    network.eval()
    terms = [losses(network, config.network.strides, batch, config.weights) for batch in loader]
    network.train()
    return {f"val/{name}": sum(float(t[name]) for t in terms) / len(terms) for name in terms[0]}
