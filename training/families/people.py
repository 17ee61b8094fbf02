# SPDX-License-Identifier: Apache-2.0
"""The heatmap family on people: joints instead of an object's keypoints."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pose_kd_ros.datasets.faults import Faults

from ..data.people_crops import PeopleDataset
from .heatmap import Heatmap

if TYPE_CHECKING:
    from ..config import RunConfig


class People(Heatmap):
    """See ``base.Family``."""

    # Joints with a lower score are not drawn, and COCO's scores of people ignore them.
    cell_score = 0.2

    def make_dataset(self, run: RunConfig, split: str, val: bool) -> PeopleDataset | None:
        """Return people to learn from, or people to watch; None without any to watch."""
        if val and run.people.val_annotations is None:
            return None
        faults = Faults(run.faults)
        people = run.people.load(val, faults)
        count = len(people.skeleton.keypoints)
        if (run.network.keypoints, run.network.classes) != (count, 1):
            found = f"{run.network.keypoints} and {run.network.classes}"
            raise ValueError(f"network.keypoints, network.classes: wanted {count} and 1, found {found}")
        if faults.kinds:
            print(f"{people.annotations}: {faults.summary(len(people.persons) + faults.images)}", flush=True)
        crops = run.people.crops
        if val:
            crops = replace(crops, flip=0.0, scale=0.0, rotated=0.0)
        return PeopleDataset(people, crops, run.seed, faults)
