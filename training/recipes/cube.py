# SPDX-License-Identifier: Apache-2.0
"""The shipped object: a cube of 84 mm with unknown pictures on its faces (24 rotational symmetries)."""

from __future__ import annotations

from pathlib import Path

from ..config import RunConfig
from ..data.crops import CropConfig
from ..models.keypoint import darknet53, darknet_tiny_h_slim


def student_cube_small() -> RunConfig:
    """First half of the shipped student: the same network on crops of 128 pixels, where a step sees
    64 of them."""
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
    """DarkNet-tiny-H with a slim head (1.06 GFLOP at 256x256, 0.26 at the 128x128 it is run at), on renders
    alone, without a teacher; goes on from ``student_cube_small`` with a second cycle of the learning rate."""
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
    """DarkNet-53 (33.4 GFLOP at 256x256, 8.4 at the 128x128 it sees here, as its students do) on the same
    renders."""
    return RunConfig(
        "teacher_cube",
        network=darknet53(),
        crops=CropConfig(size=128),
        tile_px=256,
        batch_size=64,
        steps=20_000,
    )
