# SPDX-License-Identifier: Apache-2.0
"""The object of the shipped bundle: a cube of 84 mm with unknown pictures on its faces (24 rotational
symmetries)."""

from __future__ import annotations

from pathlib import Path

from ..config import RunConfig
from ..data.crops import CropConfig
from ..models.keypoint import darknet53, darknet_tiny_h_slim


def student_cube_small() -> RunConfig:
    """First half of the training of the shipped student, on batches of 64 crops of 128 pixels."""
    return RunConfig(
        "student_cube_small",
        network=darknet_tiny_h_slim(),
        crops=CropConfig(size=128),
        tile_px=256,
        batch_size=64,
        lr=2e-3,
        steps=5_500,
    )


def student_cube_none() -> RunConfig:
    """DarkNet-tiny-H with a slim head (0.26 GFLOP at its 128x128, 1.06 at 256x256), on renders alone, without
    a teacher; continues ``student_cube_small`` with a second cycle of the learning rate."""
    return RunConfig(
        "student_cube_none",
        network=darknet_tiny_h_slim(),
        init=Path("runs/student_cube_small/last.ckpt"),
        crops=CropConfig(size=128),
        tile_px=256,
        batch_size=64,
        lr=1.5e-3,
        steps=6_500,
    )


def teacher_cube() -> RunConfig:
    """DarkNet-53 on the same renders and crops (8.4 GFLOP at 128x128, 33.4 at 256x256)."""
    return RunConfig(
        "teacher_cube",
        network=darknet53(),
        crops=CropConfig(size=128),
        tile_px=256,
        batch_size=64,
        steps=20_000,
    )
