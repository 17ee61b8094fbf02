# SPDX-License-Identifier: Apache-2.0
"""Measure a bundle on a BOP split, in the whole frame and in the true boxes: docs/results/networks.json.

    python -m bench.networks bundles/lmo --data ../shared/data/lmo/test --split "lmo-dev100, real" --limit 0

Replaces a row of the same bundle's name, steps, split and boxes. Uses one thread of ONNX Runtime. Nothing is
tuned on real images: thresholds and checkpoints come from renders.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from bench.rows import common
from pose_kd_ros.bundle.manifest import Manifest
from pose_kd_ros.bundle.store import open_bundle
from pose_kd_ros.evaluation.matching import ObjectMatches, cut
from pose_kd_ros.evaluation.metrics import figures
from pose_kd_ros.provenance import write_whole
from training.measure.evaluate import add_recalls, every_pose, measure, open_object_estimator

OUT = Path(__file__).resolve().parent.parent / "docs" / "results" / "networks.json"
SAME = ("name", "dataset", "split", "steps", "boxes")


def mean_recall(groups: list[ObjectMatches]) -> float:
    """Return the mean of the average recalls of MSSD and MSPD."""
    values = figures(groups, 1, [])
    return (values["mssd"] + values["mspd"]) / 2


def row(folder: Path, data: Path, split: str, limit: int, given_boxes: bool) -> dict:
    """Return the row of one bundle on one split."""
    bundle = open_bundle(folder)
    estimator = open_object_estimator(bundle, threads=1, pose_score=0.0)
    groups, images, seconds = measure(estimator, data, limit, given_boxes=given_boxes)
    estimator.pose_score = None  # the bundle's
    kept = [cut(group, estimator.pose_score) for group in groups]
    each = {
        f"mean_every_pose_{model.name}": mean_recall([g for g in groups if g.object_id == model.id])
        for model in bundle.objects
        if any(g.object_id == model.id for g in groups)
    }
    measured = figures(kept, images, seconds) | every_pose(groups) | each
    measured |= {
        "mean": mean_recall(kept),
        "mean_every_pose": mean_recall(groups),
        "add_s_01d_every_pose": add_recalls(groups)["add_s_01d"],
    }
    return described(bundle.manifest, f"{data.resolve().parent.name}/{data.name}", split, given_boxes) | {
        name: float(f"{value:.4g}") for name, value in measured.items() if value == value
    }


def described(manifest: Manifest, dataset: str, split: str, given_boxes: bool) -> dict:
    network = f"{manifest.network.parameters / 1e6:.2f} M parameters, {manifest.network.gflop:g} GFLOP a crop"
    training = manifest.training
    name = f"{manifest.name} ({manifest.family}), {'true boxes' if given_boxes else 'whole frame'}"
    row = common(
        name,
        training.method,
        manifest.family,
        dataset,
        split,
        network=network,
        seed=training.seed,
        steps=training.steps,
    )
    return row | {"boxes": float(given_boxes)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="a BOP split")
    parser.add_argument("--split", required=True, help='its name in the rows, as "val, synthetic"')
    parser.add_argument("--limit", type=int, default=0, help="the first N images; 0: all")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    rows = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else []
    for given_boxes in (False, True):
        made = row(options.bundle, options.data, options.split, options.limit, given_boxes)
        rows = [r for r in rows if any(r.get(key) != made[key] for key in SAME)] + [made]
        print(json.dumps(made, indent=1), flush=True)
        write_whole(options.out, json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
