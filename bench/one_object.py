"""Rows of docs/results for runs of one object: its bundles on a real BOP split and on their own renders.

    python -m bench.one_object --out ROWS.json --test LMO/test NAME=BUNDLE:RUN ...

Each bundle (``python -m training export RUN --out BUNDLE``) is measured from the whole frame, its object
alone, on --test and on the run's validation renders; ``val_vote`` is the task's vote loss on crops of
these. The rows stand in --out in the place of those of their names, or at its end.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from bench.rows import common
from pose_kd_ros.evaluation.bop_run import add_recalls, figures
from training.config import RunConfig, load_config
from training.data.targets import collate
from training.export.bundle import trained_network
from training.fit.step import losses, prepare
from training.fit.train import make_dataset
from training.measure.evaluate import measure, rounded
from training.studies.table import described, loaded


@torch.no_grad()
def vote_loss(config: RunConfig, crops: int = 640) -> float:
    """The task's vote loss of the run's checkpoint, mean over batches of the first validation crops."""
    deployed, _ = trained_network(config)
    dataset = make_dataset(config, config.val_split)
    values = []
    for first in range(0, crops, 32):
        batch = collate([dataset[i] for i in range(first, first + 32)])
        outputs = deployed.network(prepare(batch), with_features=True)
        values.append(losses(outputs, batch, deployed.network, config.weights)["vote"].item())
    return sum(values) / len(values)


def row(name: str, bundle: Path, run: Path, split: Path, real: str | None) -> dict:
    estimator, config = loaded(bundle), load_config(run)
    manifest = estimator.bundle.manifest
    groups, images, seconds = measure(estimator, split)
    about = common(
        f"one object ({manifest.objects[0].class_name}), small budget, {described(config.network)}: {name}",
        config.distill.method,
        manifest.family,
        f"{split.parent.name}/{split.name}",
        real or "synthetic",
        network=described(config.network),
        seed=config.seed,
        steps=config.steps,
    )
    found = rounded(figures(groups, images, seconds) | add_recalls(groups))
    if not real:
        found["val_vote"] = float(f"{vote_loss(config):.4g}")
    return about | {"parameters": manifest.network.parameters, "gflop": manifest.network.gflop} | found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundles", nargs="+", metavar="NAME=BUNDLE:RUN")
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--real", default="real", help="what rows of real images call their split")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rows = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else []
    for text in options.bundles:
        name, _, places = text.partition("=")
        bundle, run = map(Path, places.split(":"))
        config = load_config(run)
        rows += [
            row(name, bundle, run, options.test, options.real),
            row(name, bundle, run, config.data / "val", None),
        ]
        print(json.dumps(rows[-2:], indent=1), flush=True)
    options.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
