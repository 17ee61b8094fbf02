"""Training's throughput: a step of each network, and what distillation adds to it.

    python -m bench.training [--size 128] [--batch 32] [--threads 1] [--steps 5] [--out FILE]

Random pictures with random targets of the shipped cube: time does not depend on what is seen. ``floor_share``
is the time that the step's multiplications alone would take at the rate of this machine's matrix product,
over the step's: 1 would be the floor. Distillation's rows are ratios to the same student's plain step.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.rows import common
from pose_kd_ros.bundle.store import open_bundle
from pose_kd_ros.core.pose import from_rotation_vector, make_pose
from training.config import LossWeights, RunConfig
from training.data.targets import Instance, collate, make_targets
from training.losses.distill import DistillConfig, adlp_loss, student_votes, teacher_votes
from training.models.network import (
    KeypointNetwork,
    darknet53,
    darknet_tiny,
    darknet_tiny_h,
    darknet_tiny_h_slim,
)
from training.step import losses, prepare
from training.teacher import Distillation, Teacher, frozen

NETWORKS = {
    "darknet-tiny-h slim": darknet_tiny_h_slim,
    "darknet-tiny-h": darknet_tiny_h,
    "darknet-tiny": darknet_tiny,
    "darknet-53": darknet53,
}


def random_batch(count: int, size: int, strides: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Crops of noise, each with a cube in its middle third."""
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


def best_seconds(run, repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def matrix_gflops() -> float:
    """What the machine's own matrix product reaches."""
    a = torch.rand(1024, 1024)
    return 2 * 1024**3 / 1e9 / best_seconds(lambda: a @ a, 10)


def backward(network, batch, distillation=None, teacher=None):
    images = prepare(batch)
    taught = (distillation, teacher(images)) if distillation else ()
    outputs = network(images, with_features=True)
    losses(outputs, batch, network, LossWeights(), *taught)["total"].backward()


def plain_step(network, batch, distillation=None, teacher=None):
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5)

    def step():
        optimizer.zero_grad(set_to_none=True)
        backward(network, batch, distillation, teacher)
        optimizer.step()

    return step


def network_row(name: str, options, rate: float) -> tuple[dict, float]:
    torch.manual_seed(0)
    network = KeypointNetwork(NETWORKS[name]()).to(memory_format=torch.channels_last)
    batch = random_batch(options.batch, options.size, network.config.strides)
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


def distillation_figures(method: str, options, plain: float) -> dict:
    """A slim student under a tiny-H teacher; both untrained, so every cell of the teacher is asked."""
    torch.manual_seed(0)
    config = DistillConfig(method, teacher=Path("none"), teacher_score=0.0)
    student, teacher = (
        KeypointNetwork(make()).to(memory_format=torch.channels_last)
        for make in (darknet_tiny_h_slim, darknet_tiny_h)
    )
    distillation = Distillation.of(config, teacher.config, student.config)
    teacher = Teacher(frozen(teacher), RunConfig("teacher"))
    batch = random_batch(options.batch, options.size, student.config.strides)
    seconds = best_seconds(plain_step(student, batch, distillation, teacher), options.steps)
    figures = {"step_ms": 1e3 * seconds, "times_the_plain_step": seconds / plain}
    if method == "adlp":
        figures["transport_share_of_step"] = transport_seconds(config, batch, options) / seconds
    return figures


def transport_seconds(config: DistillConfig, batch, options) -> float:
    """The loss by itself on votes that scatter as a half-trained network's do (a tenth of the crop)."""
    cells = batch["cell_class"].shape[1]
    logits = torch.zeros(options.batch, cells, 1)
    offsets = torch.randn(options.batch, cells, 1, 8, 2) * options.size / 10
    level = torch.repeat_interleave(
        torch.arange(4), torch.tensor([(options.size // s) ** 2 for s in (8, 16, 32, 64)])
    )
    told, _ = teacher_votes(logits, offsets, torch.zeros(cells, 2), level, batch, 0.0)
    moving = (offsets + torch.randn_like(offsets) * options.size / 20).requires_grad_()

    def run():
        votes = student_votes(logits, moving, torch.zeros(cells, 2), batch)
        adlp_loss(votes, told, (options.size, options.size), config)[0].backward()

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
        rows.append(
            common(name, method, "keypoint", "noise", f"{setting}, synthetic", network=network) | figures
        )
        print(name, {k: float(f"{v:.4g}") for k, v in figures.items()}, flush=True)

    print(f"matrix product: {rate:.0f} GFLOP/s")
    for name in NETWORKS:
        figures, plain[name] = network_row(name, options, rate)
        add(f"training step, {name}", "none", name, figures)
    for method in ("naive", "fkd", "adlp", "adlp+fkd"):
        figures = distillation_figures(method, options, plain["darknet-tiny-h slim"])
        add(
            f"training step, darknet-tiny-h slim under darknet-tiny-h, {method}",
            method,
            "darknet-tiny-h slim",
            figures,
        )
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
