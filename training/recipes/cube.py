"""The shipped object: a cube of 84 mm with unknown pictures on its faces (24 rotational symmetries)."""

from __future__ import annotations

from ..config import RunConfig
from ..models.network import darknet53, darknet_tiny_h_slim


def student_cube_none() -> RunConfig:
    """DarkNet-tiny-H with a slim head (1.06 GFLOP at 256x256), trained on renders alone, without a teacher."""
    return RunConfig("student_cube_none", network=darknet_tiny_h_slim(), steps=11_000)


def teacher_cube() -> RunConfig:
    """DarkNet-53 (33.4 GFLOP at 256x256) on the same renders; wants a GPU."""
    return RunConfig("teacher_cube", network=darknet53(), steps=20_000)
