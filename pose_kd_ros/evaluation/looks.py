# SPDX-License-Identifier: Apache-2.0
"""The images of a BOP split through the node's estimator, each by itself."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ..core.camera import Camera
from ..core.object_model import ObjectModel
from ..datasets.bop import BopImage
from ..datasets.faults import DatasetError, Faults
from ..pipeline.estimator import Estimator
from ..pipeline.refine import Refiner
from ..pipeline.region import Region, projected_box
from ..pipeline.solve import Estimates
from .frame import VISIBLE


class Look(NamedTuple):
    """An image, the camera it was taken with, what was found in it, and the seconds that took."""

    image: BopImage
    camera: Camera
    found: Estimates
    seconds: float


def run(
    estimator: Estimator,
    images: Iterable[BopImage],
    faults: Faults | None = None,
    given_boxes: bool = False,
    on_depth: Refiner | None = None,
) -> Iterator[Look]:
    """Look at every image, from decoded file to poses: whole frame, no hints.

    faults: records images that cannot be read; without it DatasetError is raised. given_boxes: look in the
    true boxes instead; figures of such runs say so. on_depth: refines the poses on the depth image, which is
    not read without it.
    """
    for image in images:
        try:
            pixels = image.load_rgb()
            depth = image.load_depth() if on_depth else None
        except DatasetError as error:
            (faults or Faults()).add(error)
            continue
        camera = camera_of(image, pixels)
        regions = true_regions(image, camera, estimator.objects) if given_boxes else ()
        start = time.perf_counter()
        found = estimator.estimate(pixels, camera, regions, search=not given_boxes)
        if on_depth and depth is not None:
            found = replace(found, poses=on_depth(depth, camera, found.poses))
        yield Look(image, camera, found, time.perf_counter() - start)


def camera_of(image: BopImage, pixels: np.ndarray) -> Camera:
    """The ideal pinhole of a BOP image and its pixels (H, W, 3)."""
    return Camera(image.K, np.zeros(0), "plumb_bob", pixels.shape[1], pixels.shape[0])


def true_regions(image: BopImage, camera: Camera, objects: dict[int, ObjectModel]) -> list[Region]:
    """The projected boxes of an image's instances that count."""
    asked = [i for i in image.instances if i.object_id in objects and i.visib_fract >= VISIBLE]
    boxes = [projected_box(i.T_camera_object, objects[i.object_id], camera) for i in asked]
    return [Region(box, i.object_id) for i, box in zip(asked, boxes) if box is not None]
