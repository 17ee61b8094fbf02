# SPDX-License-Identifier: Apache-2.0
"""The eight objects of Occluded-LINEMOD in one network, on renders of their meshes alone.

The data: ``python -m training render --out data/lmo --mesh LMO/models --appearance own --pictures PHOTOS
--depth``, and once more with ``--split val --seed 2 --count 2000``. The real images are for evaluation only.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..config import RunConfig
from ..data.crops import CropConfig
from ..losses.distill import DistillConfig
from ..models.dense import DenseConfig, dense_resnet34, dense_tiny_h
from ..models.keypoint import NetworkConfig, darknet53, darknet_tiny_h

OBJECTS = 8


def teacher_lmo() -> RunConfig:
    """DarkNet-53 for all eight objects."""
    return _run("teacher_lmo", darknet53(classes=OBJECTS), 20_000)


def student_lmo_none() -> RunConfig:
    """DarkNet-tiny-H for all eight objects, without a teacher."""
    return _run("student_lmo_none", darknet_tiny_h(classes=OBJECTS), 10_000)


def student_lmo_adlp() -> RunConfig:
    """The same network, which learns from teacher_lmo's votes (ADLP)."""
    distill = DistillConfig("adlp", teacher=Path("runs/teacher_lmo"))
    return replace(student_lmo_none(), name="student_lmo_adlp", distill=distill)


def teacher_lmo_dense() -> RunConfig:
    """ResNet-34 with surface codes (29 M parameters, 109 GFLOP) for all eight objects; render its data with
    --depth."""
    return _dense("teacher_lmo_dense", dense_resnet34(classes=OBJECTS), 20_000)


def student_lmo_dense_none() -> RunConfig:
    """DarkNet-tiny-H with a slim decoder (1.03 GFLOP) and surface codes, without a teacher."""
    return _dense("student_lmo_dense_none", dense_tiny_h(classes=OBJECTS), 10_000)


def student_lmo_dense_adlp() -> RunConfig:
    """The same network, which learns from teacher_lmo_dense's codes (ADLP)."""
    distill = DistillConfig("adlp", teacher=Path("runs/teacher_lmo_dense"))
    return replace(student_lmo_dense_none(), name="student_lmo_dense_adlp", distill=distill)


def _dense(name: str, network: DenseConfig, steps: int) -> RunConfig:
    """Return a run whose crops always show an object, since a dense network does not search."""
    run = _run(name, network, steps)
    return replace(run, crops=replace(run.crops, search_share=0.0))


def _run(name: str, network: NetworkConfig | DenseConfig, steps: int) -> RunConfig:
    data, crops = Path("data/lmo"), CropConfig(size=256, cells="draw")  # as in the papers
    return RunConfig(name, data=data, network=network, crops=crops, tile_px=256, batch_size=32, steps=steps)
