# SPDX-License-Identifier: Apache-2.0
"""Measure the throughput of training: a step of each network, and what distillation adds to it.

    python -m bench.training [--size 128] [--batch 32] [--threads 1] [--steps 5] [--out FILE]

The images are noise and the targets random, since time does not depend on the content. ``floor_share`` is the
time that the step's multiplications would take at the rate of this machine's matrix product, over that of the
step: 1 is the best possible. Rows of distillation are ratios to the same student's plain step.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate
from torch.utils.flop_counter import FlopCounterMode

from bench.rows import common
from pose_kd_ros.bundle.store import open_bundle
from pose_kd_ros.core.pose import from_rotation_vector, make_pose
from pose_kd_ros.core.surface import BITS
from training.config import LossWeights, RunConfig
from training.data.dense_targets import collate_dense, make_dense_targets
from training.data.targets import Instance, collate, make_targets
from training.families import FAMILIES, AnyNetwork, Distillation, Supervision, make_network
from training.fit.step import losses, prepare
from training.fit.teacher import Teacher, frozen
from training.losses.distill import DistillConfig, Method, adlp_loss, student_votes, teacher_votes
from training.losses.distill_dense import code_terms
from training.models.base import channels_last
from training.models.dense import STRIDE, dense_resnet34, dense_tiny, dense_tiny_h
from training.models.keypoint import darknet53, darknet_tiny, darknet_tiny_h, darknet_tiny_h_slim

NETWORKS: dict[str, Callable[[], AnyNetwork]] = {
    "darknet-tiny-h slim": darknet_tiny_h_slim,
    "dense darknet-tiny-h": dense_tiny_h,
    "darknet-tiny-h": darknet_tiny_h,
    "dense darknet-tiny": dense_tiny,
    "darknet-tiny": darknet_tiny,
    "darknet-53": darknet53,
    "dense resnet-34": dense_resnet34,
}  # in order of memory: the process's peak is read after each


def family_of(name: str) -> str:
    return NETWORKS[name]().family


def random_batch(count: int, size: int, strides: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Return crops of noise, each with targets of a cube in its middle half."""
    random = np.random.default_rng(0)
    model = open_bundle(Path(__file__).resolve().parent.parent / "bundles" / "cube").objects[0]
    K = np.array([[2.0 * size, 0, size / 2], [0, 2.0 * size, size / 2], [0, 0, 1]])
    mask = np.zeros((size, size), bool)
    mask[size // 4 : -size // 4, size // 4 : -size // 4] = True
    samples = []
    for _ in range(count):
        pose = make_pose(from_rotation_vector(random.uniform(-3, 3, 3)), [0.0, 0.0, 0.5])
        instance = Instance(0, pose, mask, size / 2)
        image = torch.from_numpy(random.integers(0, 255, (3, size, size), dtype=np.uint8))
        samples.append(
            {"image": image, **make_targets([instance], [model], K, (size, size), strides, random)}
        )
    return collate(samples)


def random_codes(count: int, size: int) -> dict[str, torch.Tensor]:
    """Return the same for the dense family: crops of noise with an object of random codes in the middle."""
    random, output = np.random.default_rng(0), size // STRIDE
    labels = np.zeros((output, output), np.uint8)
    labels[output // 4 : -output // 4, output // 4 : -output // 4] = 1
    codes = random.integers(0, 1 << BITS, (1, output, output))
    image = torch.from_numpy(random.integers(0, 255, (3, size, size), dtype=np.uint8))
    return collate_dense([{"image": image, **make_dense_targets([0], [True], [1], labels, codes)}] * count)


def batch_for(config, options) -> dict[str, torch.Tensor]:
    if config.family == "dense":
        return random_codes(options.batch, options.size)
    return random_batch(options.batch, options.size, config.strides)


def best_seconds(run, repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def matrix_gflops() -> float:
    """Return the rate of this machine's matrix product."""
    a = torch.rand(1024, 1024)
    return 2 * 1024**3 / 1e9 / best_seconds(lambda: a @ a, 10)


def backward(network, batch, distillation=None, teacher=None):
    images = prepare(batch)
    how = Supervision(LossWeights(), distillation, teacher(images) if distillation else None)
    outputs = network(images, with_features=True)
    losses(outputs, batch, network, how)["total"].backward()


def plain_step(network, batch, distillation=None, teacher=None):
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5)

    def step():
        optimizer.zero_grad(set_to_none=True)
        backward(network, batch, distillation, teacher)
        optimizer.step()

    return step


def network_row(name: str, options, rate: float) -> tuple[dict, float]:
    torch.manual_seed(0)
    network = channels_last(make_network(NETWORKS[name]()))
    batch = batch_for(network.config, options)
    with FlopCounterMode(display=False) as counter:
        backward(network, batch)
    seconds = best_seconds(plain_step(network, batch), options.steps)
    gflop = counter.get_total_flops() / 1e9
    figures = {
        "parameters_m": sum(p.numel() for p in network.parameters()) / 1e6,
        "step_gflop": gflop,
        "step_ms": 1e3 * seconds,
        "crops_per_second": options.batch / seconds,
        "floor_share": gflop / rate / seconds,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }
    return figures, seconds


def distillation_figures(method: Method, taught: str, by: str, options, plain: float) -> dict:
    """Measure a student with a teacher, both untrained; all cells of the teacher vote."""
    torch.manual_seed(0)
    config = DistillConfig(method, teacher=Path("none"), teacher_score=0.0)
    student, network = (channels_last(make_network(NETWORKS[name]())) for name in (taught, by))
    layers = FAMILIES[student.config.family].feature_layers(config, network.config, student.config)
    distillation, teacher = Distillation(config, layers), Teacher(frozen(network), RunConfig("teacher"))
    batch = batch_for(student.config, options)
    seconds = best_seconds(plain_step(student, batch, distillation, teacher), options.steps)
    figures = {"step_ms": 1e3 * seconds, "times_the_plain_step": seconds / plain}
    if method == "adlp":
        alone = code_seconds if student.config.family == "dense" else transport_seconds
        figures["transport_share_of_step"] = alone(config, batch, options) / seconds
    return figures


def transport_seconds(config: DistillConfig, batch, options) -> float:
    """Measure the loss alone, on votes that scatter like a half-trained network's (a tenth of the crop)."""
    cells = batch["cell_class"].shape[1]
    logits = torch.zeros(options.batch, cells, 1)
    offsets = torch.randn(options.batch, cells, 1, 8, 2) * options.size / 10
    level = torch.repeat_interleave(
        torch.arange(4), torch.tensor([(options.size // s) ** 2 for s in (8, 16, 32, 64)])
    )
    wanted, _ = teacher_votes(logits, offsets, torch.zeros(cells, 2), level, batch, 0.0)
    moving = (offsets + torch.randn_like(offsets) * options.size / 20).requires_grad_()

    def run():
        votes = student_votes(logits, moving, torch.zeros(cells, 2), batch)
        adlp_loss(votes, wanted, (options.size, options.size), config)[0].backward()

    return best_seconds(run, options.steps)


def code_seconds(config: DistillConfig, batch, options) -> float:
    """Measure the same for surface codes: smooth maps of bits, those of the student less certain."""
    side = options.size // STRIDE
    coarse = torch.randn(options.batch, BITS, 8, 8) * 4
    teacher = interpolate(coarse, size=(side, side), mode="bilinear")
    moving = (teacher * 0.4 + torch.randn_like(teacher)).requires_grad_()
    mask = torch.full((options.batch, 1, side, side), 2.0)

    def run():
        code_terms((mask, moving), (mask, teacher), batch, config)["kd_code"].backward()

    return best_seconds(run, options.steps)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rate, rows, plain = matrix_gflops(), [], {}
    setting = f"batch {options.batch} of {options.size}x{options.size}, fp32, {options.threads} thread(s)"

    def add(name, method, network, figures):
        family = family_of(network)
        rows.append(common(name, method, family, "noise", f"{setting}, synthetic", network=network) | figures)
        print(name, {k: float(f"{v:.4g}") for k, v in figures.items()}, flush=True)

    print(f"matrix product: {rate:.0f} GFLOP/s")
    for name in NETWORKS:
        figures, plain[name] = network_row(name, options, rate)
        add(f"training step, {name}", "none", name, figures)
    votes: tuple[Method, ...] = ("naive", "fkd", "adlp", "adlp+fkd")
    codes: tuple[Method, ...] = ("naive", "adlp")
    pairs = [("darknet-tiny-h slim", "darknet-tiny-h", method) for method in votes]
    pairs += [("dense darknet-tiny-h", "dense darknet-tiny", method) for method in codes]
    for taught, by, method in pairs:
        figures = distillation_figures(method, taught, by, options, plain[taught])
        add(f"training step, {taught} under {by}, {method}", method, taught, figures)
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
