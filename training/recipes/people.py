# SPDX-License-Identifier: Apache-2.0
"""The benchmarks of online distillation (OKDHP), MPII and COCO, with its settings: Adam at 2.5e-4, a tenth of
that from epoch 90 of 150 on, a hundredth from epoch 120 on; batches of 16; flips, scales of +-25 %, turns of
+-30 degrees. The number of steps is that of 150 epochs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from ..config import RunConfig
from ..data.augment import AugmentConfig
from ..data.people import COCO, MPII
from ..data.people_crops import PeopleCropConfig
from ..data.people_source import PeopleConfig
from ..losses.online import OnlineConfig
from ..models.heatmap import HeatmapConfig, hourglass, light, okdhp_hourglass

Kind = Literal["mpii", "coco"]
EPOCHS, BATCH = 150, 16
PEOPLE = {"mpii": 22_246, "coco": 149_813}  # people in the training sets, which make an epoch
STACKS = (2, 4, 8)
LIGHT = ("resnet18", "mobilenetv2", "shufflenetv2")
UNTOUCHED = AugmentConfig(brightness=0.0, contrast=0.0, grey=0.0, noise=0.0, cutout=0.0)


def people_recipes() -> dict[str, Callable[[], RunConfig]]:
    """Recipes by name: ``mpii_hourglass4_plain``, ``mpii_hourglass4_okdhp``, ``coco_mobilenetv2_okdhp``, ...;
    the first branch is deployed."""
    found: dict[str, tuple[Kind, Callable[..., HeatmapConfig], tuple, bool]] = {}
    kinds: tuple[Kind, ...] = ("mpii", "coco")
    for kind in kinds:
        for stacks in STACKS:
            name = f"{kind}_hourglass{stacks}"
            found[f"{name}_plain"] = (kind, hourglass, (stacks,), False)
            found[f"{name}_okdhp"] = (kind, okdhp_hourglass, (stacks,), True)
        found[f"{kind}_hourglass4_okdhp_unbalanced"] = (kind, okdhp_hourglass, (4, True), True)
        for backbone in LIGHT:
            found[f"{kind}_{backbone}_plain"] = (kind, light, (backbone,), False)
            found[f"{kind}_{backbone}_okdhp"] = (kind, light, (backbone, 3), True)
    return {name: _recipe(name, *how) for name, how in found.items()}


def _recipe(name: str, kind: Kind, make: Callable[..., HeatmapConfig], how: tuple, taught: bool):
    def recipe() -> RunConfig:
        skeleton = {"coco": COCO, "mpii": MPII}[kind]
        network = make(*how, keypoints=len(skeleton.keypoints))
        network = replace(network, aggregation="fau") if taught else network
        run = _plain(name, kind, network)
        return replace(run, online=OnlineConfig("ensemble", ramp_every=_epoch(kind))) if taught else run

    recipe.__name__ = name
    recipe.__doc__ = f"{'OKDHP' if taught else 'Plain'}, {name.split('_')[1]}, on {kind.upper()}'s people."
    return recipe


def _epoch(kind: Kind) -> int:
    return PEOPLE[kind] // BATCH


def _plain(name: str, kind: Kind, network: HeatmapConfig) -> RunConfig:
    root = Path("data") / kind
    files = {
        "coco": (
            "annotations/person_keypoints_train2017.json",
            "train2017",
            "annotations/person_keypoints_val2017.json",
            "val2017",
        ),
        "mpii": ("annot/train.json", "images", "annot/valid.json", "images"),
    }[kind]
    crops = PeopleCropConfig(aspect=0.75 if kind == "coco" else 1.0)
    annotations, images, val_annotations, val_images = (root / file for file in files)
    people = PeopleConfig(kind, annotations, images, val_annotations, val_images, crops=crops)
    return RunConfig(
        name,
        data=root,
        people=people,
        network=network,
        augment=UNTOUCHED,
        steps=EPOCHS * _epoch(kind),
        batch_size=BATCH,
        lr=2.5e-4,
        weight_decay=0.0,
        warmup=0.0,
        schedule="milestones",
        val_split="",
        workers=4,
    )
