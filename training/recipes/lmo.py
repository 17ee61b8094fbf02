"""The eight objects of Occluded-LINEMOD in one network, on renders of their meshes alone.

The data: ``python -m training render --out data/lmo --mesh LMO/models --appearance own --pictures PHOTOS``,
and once more with ``--split val --seed 2 --count 2000``. The real images are for evaluation only.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..config import RunConfig
from ..data.crops import CropConfig
from ..losses.distill import DistillConfig
from ..models.network import darknet53, darknet_tiny_h

OBJECTS = 8


def teacher_lmo() -> RunConfig:
    """DarkNet-53 for all eight objects; wants a GPU."""
    return RunConfig(
        "teacher_lmo",
        data=Path("data/lmo"),
        network=darknet53(classes=OBJECTS),
        crops=CropConfig(size=256),
        tile_px=256,
        batch_size=32,
        steps=20_000,
    )


def student_lmo_none() -> RunConfig:
    """DarkNet-tiny-H for all eight objects, without a teacher."""
    return RunConfig(
        "student_lmo_none",
        data=Path("data/lmo"),
        network=darknet_tiny_h(classes=OBJECTS),
        crops=CropConfig(size=256),
        tile_px=256,
        batch_size=32,
        steps=10_000,
    )


def student_lmo_adlp() -> RunConfig:
    """The same, taught by teacher_lmo's votes (ADLP)."""
    return replace(
        student_lmo_none(),
        name="student_lmo_adlp",
        distill=DistillConfig("adlp", teacher=Path("runs/teacher_lmo")),
    )
