"""What branches cost in training, against the one that is deployed.

    python -m bench.branches --out docs/results/branches.json

Networks for 9 keypoints at 256x256: FLOPs forward (a multiply-add counted as 2) and parameters of the
deployed branch and of all that training runs, and the time of a forward and backward pass on one thread over
that of the plain network's in the same run, in turn, median of --times.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch

from bench.rows import common
from training.export.bundle import cost
from training.models.heatmap import HeatmapConfig, light, okdhp_hourglass
from training.models.network import deployed, make_network
from training.studies.table import described

SIZE = 256
NETWORKS = {
    **{name: light(name, branches=3) for name in ("mobilenetv2", "shufflenetv2", "resnet18")},
    **{f"{stacks} stacks": okdhp_hourglass(stacks, keypoints=9) for stacks in (2, 4)},
    "4 stacks, unbalanced": okdhp_hourglass(4, unbalanced=True, keypoints=9),
}


def seconds(network: torch.nn.Module, images: torch.Tensor) -> float:
    """One forward and backward pass as in training."""
    start = time.perf_counter()
    outputs = network(images, with_features=True)
    found = outputs.final.square().mean()
    if outputs.ensemble is not None:
        found = found + outputs.ensemble.square().mean()
    found.backward()
    return time.perf_counter() - start


def row(name: str, config: HeatmapConfig, times: int) -> dict:
    network = make_network(config)
    alone = deployed(network)
    images = torch.randn(2, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
    pairs = [(seconds(network, images), seconds(alone, images)) for _ in range(times + 1)][1:]
    own, all_ = cost(alone.eval(), (SIZE, SIZE)), cost(network.eval(), (SIZE, SIZE), True)
    about = common(
        f"{name}: three branches, {config.aggregation}", "okdhp", "heatmap", "256x256", "synthetic"
    )
    figures = {
        "parameters": own[0],
        "parameters_training": all_[0],
        "gflop": own[1],
        "gflop_training": all_[1],
        "gflop_ratio": all_[1] / own[1],
        "time_ratio": statistics.median(a / b for a, b in pairs),
    }
    network_name = {"network": described(config)}
    return about | network_name | {key: float(f"{value:.4g}") for key, value in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--times", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, config in NETWORKS.items():
        for aggregation in ("fau", "fau-slim"):
            rows.append(row(name, replace(config, aggregation=aggregation), options.times))
            print(json.dumps(rows[-1]), flush=True)
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
