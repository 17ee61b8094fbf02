# SPDX-License-Identifier: Apache-2.0
"""The heatmap family for people: joints instead of an object's keypoints."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pose_kd_ros.datasets.faults import Faults

from ..data.people_crops import PeopleDataset
from ..models.heatmap import HeatmapConfig
from .heatmap import Heatmap

if TYPE_CHECKING:
    from ..config import RunConfig


class People(Heatmap):
    """See ``base.Family``."""

    # Joints with a lower score are not drawn, and COCO's scores of people ignore them.
    cell_score = 0.2

    def check(self, run: RunConfig) -> None:
        if not isinstance(run.network, HeatmapConfig):
            raise ValueError(f"network: wanted the heatmap family for people, found {run.network.family}")
        super().check(run)

    def make_dataset(self, run: RunConfig, split: str, val: bool) -> PeopleDataset | None:
        """Return people to train on or, with val, to validate on; None without the latter."""
        config, network = run.people, run.network
        assert config is not None and isinstance(network, HeatmapConfig)
        if val and config.val_annotations is None:
            return None
        faults = Faults(run.faults)
        people = config.load(val, faults)
        count = len(people.skeleton.keypoints)
        if (network.keypoints, network.classes) != (count, 1):
            found = f"{network.keypoints} and {network.classes}"
            raise ValueError(f"network.keypoints, network.classes: wanted {count} and 1, found {found}")
        if faults.kinds:
            print(f"{people.annotations}: {faults.summary(len(people.persons) + faults.images)}", flush=True)
        crops = config.crops
        if val:
            crops = replace(crops, flip=0.0, scale=0.0, rotated=0.0)
        return PeopleDataset(people, crops, run.seed, faults)
