# SPDX-License-Identifier: Apache-2.0
"""Heatmaps of the eight objects of Occluded-LINEMOD, on renders alone: plain, and with branches that teach
each other (OKDHP). The data is that of ``recipes.lmo``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..config import RunConfig
from ..data.crops import CropConfig
from ..losses.online import OnlineConfig
from ..models.heatmap import HeatmapConfig, light

OBJECTS, KEYPOINTS = 8, 9


def student_lmo_heatmap() -> RunConfig:
    """MobileNetV2 with a decoder: a heatmap for each box corner, and one for the centre, of each object."""
    return _run("student_lmo_heatmap", light("mobilenetv2", classes=OBJECTS, keypoints=KEYPOINTS))


def student_lmo_okdhp() -> RunConfig:
    """The same, trained with three branches that their aggregation teaches (OKDHP)."""
    network = light("mobilenetv2", branches=3, classes=OBJECTS, keypoints=KEYPOINTS)
    run = _run("student_lmo_okdhp", replace(network, aggregation="fau-slim"))
    return replace(run, online=OnlineConfig("ensemble"))


def _run(name: str, network: HeatmapConfig) -> RunConfig:
    crops = CropConfig(size=256, scale_jitter=0.25, shift_jitter=0.15, search_share=0.1, roll_deg=15.0)
    return RunConfig(
        name,
        data=Path("data/lmo"),
        keypoints="corners+centre",
        network=network,
        crops=crops,
        tile_px=320,
        batch_size=32,
        steps=10_000,
    )
