# SPDX-License-Identifier: Apache-2.0
"""Surface networks on object views alone, as ``make`` trains them.

The data: ``python -m training render --view object --out data/lmo --split views --count 24000
--mesh LMO/models --appearance own --stand upright``, and once more with ``--split views_val
--count 2400 --seed 2``.
"""

from __future__ import annotations

from pathlib import Path

from ..config import RunConfig
from ..data.augment import AugmentConfig
from ..data.crops import CropConfig
from ..models.surface import SurfaceConfig

BATCH = 16  # crops per step: 500 steps of 16 crops, of 8,000, were as good as 500 steps of 32
UNCHANGED = AugmentConfig(0.0, 0.0, 0.0, 0.0, 0.0)  # composed crops have random camera effects already


def surface_lmo() -> RunConfig:
    """EfficientNet-Lite0 with a slim decoder for the eight objects of Occluded-LINEMOD."""
    return surface_run("surface_lmo", Path("data/lmo"), 8, 15_000)


def surface_cube() -> RunConfig:
    """The same for the cube of 84 mm with unknown pictures."""
    return surface_run("surface_cube", Path("data/cube"), 1, 8_000)


def surface_ycb() -> RunConfig:
    """The same for six objects of the YCB set."""
    return surface_run("surface_ycb", Path("data/ycb"), 6, 15_000)


def surface_run(name: str, data: Path, classes: int, steps: int) -> RunConfig:
    """Return a run of lite0 on 128-pixel crops of the object views of ``data``."""
    return RunConfig(
        name,
        data=data,
        split="views",
        network=SurfaceConfig(classes=classes),
        crops=CropConfig(size=128, margin=1.25, roll_deg=30.0, shift_jitter=0.2),
        augment=UNCHANGED,
        batch_size=BATCH,
        steps=steps,
        lr=4e-3,
        encoder_lr=0.3,
        clip=5.0,
        warmup=0.02,
    )
