# SPDX-License-Identifier: Apache-2.0
"""Check, before the first step, that a data set shows its objects and that its poses and masks agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pose_kd_ros.core.camera import project_pinhole
from pose_kd_ros.core.object_model import ObjectModel
from pose_kd_ros.core.pose import transform
from pose_kd_ros.datasets.bop import BopImage, BopInstance
from pose_kd_ros.datasets.faults import DatasetError

SAMPLES = 40  # instances whose masks are read
GROWN = 1.3  # the projected box of an object, so enlarged, holds the middle of its mask


def check_teachable(split: Path, images: Sequence[BopImage], models: Sequence[ObjectModel]) -> None:
    """Print how many instances of each object can be learnt.

    Raise DatasetError if an object has no visible instance, or if most masks of a sample of instances do not
    lie where the poses put their objects.
    """
    by_id = {model.id: model for model in models}
    seen = [(im, i) for im in images for i in im.instances if i.object_id in by_id and i.visib_fract > 0]
    counts = Counter(instance.object_id for _, instance in seen)
    print(f"{split}: {', '.join(f'{counts[i]} instances of object {i}' for i in sorted(by_id))}", flush=True)
    if missing := [i for i in sorted(by_id) if not counts[i]]:
        there = Counter(i.object_id for image in images for i in image.instances)
        hidden = ", ".join(f"{there[i]} of object {i}" for i in missing)
        raise DatasetError(
            f"{split}: wanted visible instances (visib_fract above 0) of objects {missing}, found none in "
            f"{len(images)} images; {hidden} are there, all hidden"
        )
    sample = seen[:: max(1, -(-len(seen) // SAMPLES))]
    contradictions = [text for pair in sample if (text := _contradiction(*pair, by_id)) is not None]
    if 2 * len(contradictions) > len(sample):
        raise DatasetError(
            f"{split}: {contradictions[0]}; so in {len(contradictions)} of {len(sample)} instances that were "
            "looked at. Translations are millimetres, masks are not 0 where an object is seen",
            "mask",
        )


def _contradiction(image: BopImage, instance: BopInstance, models: dict[int, ObjectModel]) -> str | None:
    """Return in words how an instance's mask and pose differ; None where they agree."""
    try:
        v, u = np.nonzero(instance.load_mask())
    except DatasetError:  # counted where the image is read to be learnt
        return None
    where = f"{image.rgb}, object {instance.object_id}"
    points = transform(instance.T_camera_object, models[instance.object_id].corners())
    pixels = project_pinhole(image.K, points)
    if not np.isfinite(pixels).all():
        return f"{where}: wanted a pose in front of the camera, found z = {points[:, 2].min():.4g} m"
    low, high = pixels.min(0), pixels.max(0)
    box = " to ".join(f"({x:.0f}, {y:.0f})" for x, y in (low, high))
    if not len(u):
        return f"{where}: wanted a mask in the box {box} of its pose, found an empty mask"
    middle = np.array([u.mean(), v.mean()])
    if (np.abs(middle - (low + high) / 2) > GROWN * (high - low) / 2 + 1).any():
        at = f"({middle[0]:.0f}, {middle[1]:.0f})"
        return f"{where}: wanted a mask in the box {box} of its pose, found it about {at}"
    return None
