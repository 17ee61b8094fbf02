"""What a dense run has learnt so far: its mask and, bit by bit, its codes, on crops of its validation split.

    python -m bench.codes runs/RUN [--crops 400] [--out docs/results/dense_small.json]

``mask_iou``: of the mask, over all crops. ``bit_N_error``: share of wrong bits inside the visible masks; the
first bit halves the surface, the last of 16 tells points a millimetre apart; chance is 0.5.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from bench.rows import common
from training.config import load_config
from training.data.dense_targets import collate_dense
from training.export.bundle import trained_network
from training.fit.step import prepare
from training.fit.train import make_dataset
from training.losses.dense import bits_of
from training.studies.table import described


@torch.no_grad()
def measured(folder: Path, crops: int) -> dict:
    """Figures of the run's last checkpoint."""
    config = load_config(folder)
    network, step = trained_network(config)
    dataset = make_dataset(config, config.val_split)
    both = either = pixels = wrong = 0
    for first in range(0, crops, 16):
        batch = collate_dense([dataset[i] for i in range(first, first + 16)])
        mask, codes = network(prepare(batch))
        seen, said = batch["instance_map"] >= 0, mask.amax(1) > 0.5
        both, either = both + (seen & said).sum(), either + (seen | said).sum()
        image = batch["map_image"]
        inside = (batch["instance_map"][image] == batch["map_instance"].view(-1, 1, 1)).unsqueeze(1)
        pixels = pixels + inside.sum()
        true = bits_of(batch["code_maps"]).movedim(3, 1) > 0.5
        wrong = wrong + (((codes[image] > 0.5) != true) & inside).sum((0, 2, 3))
    errors = {f"bit_{n}_error": float(f"{e:.4g}") for n, e in enumerate((wrong / pixels).tolist(), 1)}
    about = common(
        f"dense, {described(config.network)}: {config.distill.method}",
        config.distill.method,
        "dense",
        f"{config.data.name} renders",
        "val, synthetic",
        network=described(config.network),
        seed=config.seed,
        steps=step,
    )
    return about | {"crops": crops, "mask_iou": float(f"{both / either:.4g}"), **errors}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--crops", type=int, default=400)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = [measured(run, options.crops) for run in options.runs]
    text = json.dumps(rows, indent=1) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
