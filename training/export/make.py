# SPDX-License-Identifier: Apache-2.0
"""From a mesh to a bundle in one command: render views, train, render held-out frames, export, evaluate.

Each part is also a separate command. If it is stopped, the same command continues from there.
"""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from pose_kd_ros.bundle.store import open_bundle
from pose_kd_ros.evaluation.__main__ import main as evaluate
from pose_kd_ros.provenance import write_whole

from ..config import RunConfig
from ..data.compose import ComposeConfig
from ..families import make_network
from ..fit.learner import parameters
from ..losses.means import total
from ..losses.surface import surface_losses
from ..models.base import channels_last
from ..recipes.surface import BATCH, surface_run
from ..render.dataset import render_dataset
from ..render.mesh_files import load_targets
from .mesh import with_meshes

if TYPE_CHECKING:
    from ..cli import Make

VIEWS_PER_HOUR, MOST_VIEWS, LEAST_VIEWS = 6000, 40_000, 500  # per hour of the whole time
VAL_VIEWS = 0.05  # validation views over those to train on
# Held-out frames: one half fits the score, the other is measured.
FRAMES_PER_HOUR, MOST_FRAMES, LEAST_FRAMES = 500, 2000, 60
PAGE_FRAMES = 100  # frames of the evaluation's page; nothing is chosen on them
REST = 0.15  # share of the time for rendering, export and evaluation
PLAN = "plan.json"
Precision = Literal["32-true", "bf16-mixed"]


@dataclass(frozen=True)
class Plan:
    """How the given time is spent. crops_per_second: as measured when the plan was made."""

    views: int
    frames: int
    steps: int
    precision: Precision
    crops_per_second: float

    def __post_init__(self):
        for name in ("views", "frames", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{PLAN}: {name}: wanted 1 or more, found {getattr(self, name)}")


def make(command: Make) -> str:
    """Make the bundle and return a line to print. Raises ValueError for errors that a user can fix, and
    ``train.Stopped`` on Ctrl-C during training."""
    from ..fit.train import train
    from .run import export_run

    objects = len(load_targets(command.render))
    plan = plan_of(command, objects)
    print(in_words(plan, command), flush=True)
    data, run = command.folder / "data", run_of(command, plan, objects)
    render_dataset(command.views, data, "views", plan.views, seed=1, workers=1)
    watched = max(objects, int(VAL_VIEWS * plan.views))
    render_dataset(command.views, data, "views_val", watched, seed=2, workers=1)
    train(run)
    render_dataset(command.render, data, "val", plan.frames, seed=3, workers=1)
    names = command.names or ({1: command.out.name} if objects == 1 else {})
    exported = export_run(run.folder, command.out, names, 480, plan.frames)
    with_meshes(open_bundle(command.out), command.mesh, command.mesh_unit)
    render_dataset(command.render, data, "test", PAGE_FRAMES, seed=4, workers=1)
    page = command.folder / "evaluation"
    where = ["--bop", str(data / "test"), "--bundle", str(command.out), "--out", str(page)]
    if evaluate([*where, "--no-vsd"]):
        raise ValueError(f"{command.out}: could not be evaluated, see above; the bundle itself is complete")
    return (
        f"{exported}\nfigures and pictures: {page / 'report.html'}\n"
        f"next: ros2 launch pose_kd_ros pose.launch.py bundle:={command.out.resolve()}"
    )


def plan_of(command: Make, objects: int) -> Plan:
    """Return the plan in the work folder; without one, make it and write it there."""
    path = command.folder / PLAN
    if path.exists():
        return Plan(**json.loads(path.read_text(encoding="utf-8")))
    if command.hours <= 0:
        raise ValueError(f"--hours: wanted more than 0, found {command.hours}")
    precision, rate = fastest(objects)
    plan = Plan(
        views=int(min(MOST_VIEWS, max(LEAST_VIEWS, VIEWS_PER_HOUR * command.hours))),
        frames=int(min(MOST_FRAMES, max(LEAST_FRAMES, FRAMES_PER_HOUR * command.hours))),
        steps=max(10, int((1 - REST) * 3600 * command.hours * rate / BATCH)),
        precision=precision,
        crops_per_second=round(rate, 2),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(dataclasses.asdict(plan), indent=1) + "\n")
    return plan


def in_words(plan: Plan, command: Make) -> str:
    training = plan.steps * BATCH / plan.crops_per_second / 3600
    return (
        f"{command.out.name}: {plan.views} views; {plan.steps} steps of {BATCH} crops ({plan.precision}), "
        f"about {training:.1f} h at {plan.crops_per_second:g} crops a second; {plan.frames} held-out frames. "
        f"Work folder: {command.folder}"
    )


def run_of(command: Make, plan: Plan | None, objects: int) -> RunConfig:
    """Return the training run of a plan."""
    run = surface_run("run", command.folder / "data", objects, plan.steps if plan else 1)
    return replace(
        run,
        runs=command.folder,
        seed=command.seed,
        init=command.init,
        init_part="trunk" if command.init else "all",
        precision=plan.precision if plan else run.precision,
        compose=ComposeConfig(pictures=command.pictures),
    )


def fastest(objects: int) -> tuple[Precision, float]:
    """Return the precision in which a step takes less time on this machine, and its crops per second."""
    run = surface_run("run", Path("."), objects, 1)
    kinds: tuple[Precision, ...] = ("32-true", "bf16-mixed")
    rates = {precision: crops_per_second(run, precision) for precision in kinds}
    best = max(kinds, key=lambda precision: rates[precision])
    return best, rates[best]


def crops_per_second(run: RunConfig, precision: str, steps: int = 3, batch: int = 16) -> float:
    """Measure plain training steps on noise; the time to compose crops is not included."""
    torch.set_num_threads(run.threads)
    network = channels_last(make_network(run.network)).train()
    optimizer = torch.optim.AdamW(parameters(network, run), lr=1e-6)
    side = run.crops.size // run.network.strides[0]
    images = torch.rand(batch, 3, run.crops.size, run.crops.size).to(memory_format=torch.channels_last)
    targets = {
        "instance_map": torch.zeros(batch, side, side, dtype=torch.int64),
        "points": torch.zeros(batch, 3, side, side),
        "class_index": torch.zeros(1, dtype=torch.int64),
        "ties": torch.eye(4)[None, None, :3].repeat(1, 8, 1, 1),
        "tied": torch.ones(1, 8, dtype=torch.bool),
    }
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
            surface = network(images)
        total(surface_losses(surface, targets).values()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        times.append(time.perf_counter() - start)
    return batch / min(times)
