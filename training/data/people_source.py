# SPDX-License-Identifier: Apache-2.0
"""Which people a run learns from and is measured on: files of COCO or of MPII."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pose_kd_ros.datasets.faults import Faults

from .coco import read_coco
from .mpii import read_mpii
from .people import COCO, MPII, People, Skeleton
from .people_crops import PeopleCropConfig


@dataclass(frozen=True)
class PeopleConfig:
    """Human pose: files, and what a training sample shows."""

    kind: Literal["coco", "mpii"]
    annotations: Path
    """Annotations of the people to train on: person_keypoints_train2017.json, or MPII's train.json."""
    images: Path
    """Folder of their pictures."""
    val_annotations: Path | None = None
    """Annotations of the people to measure on; none given: nobody is measured."""
    val_images: Path | None = None
    """Folder of their pictures; none given: --people.images."""
    heads: Path | None = None
    """MPII: mpii_human_pose_v1_u12_1.mat, for the head boxes."""
    crops: PeopleCropConfig = field(default_factory=PeopleCropConfig)

    @property
    def skeleton(self) -> Skeleton:
        return {"coco": COCO, "mpii": MPII}[self.kind]

    def load(self, val: bool, faults: Faults | None = None) -> People:
        """Return the people to train on or, with ``val``, to measure on.

        Damaged entries raise DatasetError or are skipped, as ``faults`` says.
        """
        if not val:  # head boxes are for measuring; people without one can be learnt from
            return read_people(self.kind, self.annotations, self.images, None, faults)
        assert self.val_annotations is not None  # the caller asks first
        images = self.val_images or self.images
        return read_people(self.kind, self.val_annotations, images, self.heads, faults)


def read_people(
    kind: str,
    path: Path,
    images: Path,
    heads: Path | None = None,
    faults: Faults | None = None,
    detections: Path | None = None,
) -> People:
    """Return the people of one file; heads: MPII's; detections: COCO's."""
    if kind == "coco":
        return read_coco(path, images, detections, faults)
    return read_mpii(path, images, heads, faults)
