# SPDX-License-Identifier: Apache-2.0
"""COCO's person_keypoints files.

Convention: COCO's joints are pixels with centres at integers, its boxes count from the image's corner: the
box [0, 0, 640, 425] has its centre at the pixel (319.5, 212).
Source: https://cocodataset.org/#format-data, #format-results.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from pose_kd_ros.datasets.faults import DatasetError, Faults
from pose_kd_ros.datasets.values import as_list, field, numbers, read_json

from .people import COCO, MARGIN, People, Person, picture_of

PERSON = 1  # the category of people
FOR_OKS = {
    "num_keypoints": 1,
    "area": 1,
    "iscrowd": 1,
    "bbox": 4,
}  # fields that the metric reads; not training
Entries = dict[int, list[tuple[str, Any]]]  # of an image's id: its entries, each with what errors call it


def read_coco(
    path: Path, images: Path, detections: Path | None = None, faults: Faults | None = None
) -> People:
    """Return every person who has a keypoint and is not in a crowd.

    An annotated keypoint is visible, whether it is seen (v = 2) or hidden (v = 1). detections: a list of
    image_id, category_id, bbox and score; these people take the place of the annotated ones, and none of
    their joints is visible. Raises DatasetError, or as ``faults`` says: an image with a damaged entry is left
    out whole.
    """
    faults, content = faults or Faults(), read_json(path)
    _check_category(content, path)
    truths = _by_image(field(content, "annotations", path), f"{path}, annotation", faults)
    boxes = {} if detections is None else _by_image(read_json(detections), f"{detections}, entry", faults)
    persons, usable = [], []
    for number, entry in enumerate(as_list(field(content, "images", path), f"{path}: images")):
        where = f"{path}, image {number}"
        try:
            key = _id(entry, "id", where)
            annotated, detected = truths.pop(key, ()), boxes.pop(key, ())
            picture = picture_of(entry, "file_name", where, images)
            known = [_annotated(*each, picture, key) for each in annotated]
            found = [_detected(*each, picture, key) for each in detected]
        except DatasetError as error:
            faults.add(error)
            continue
        usable.append(key)
        persons += [p for p in (known if detections is None else found) if p is not None]
    for at, _ in (each for left in (truths, boxes) for entries in left.values() for each in entries):
        faults.add(DatasetError(f"{at}: image_id: {path} has no image of that id"))
    return People(COCO, tuple(persons), Path(path), tuple(usable))


def _check_category(content: Any, path: Path) -> None:
    where = f"{path}: categories"
    for entry in as_list(field(content, "categories", path), where):
        if _id(entry, "id", where) == PERSON:
            names = as_list(field(entry, "keypoints", where), where)
            if tuple(names) != COCO.keypoints:
                raise DatasetError(f"{where}: keypoints: wanted {list(COCO.keypoints)}, found {names}")
            return
    raise DatasetError(f"{where}: id: wanted {PERSON}, a person's, found none")


def _by_image(entries: Any, where: str, faults: Faults) -> Entries:
    found = defaultdict(list)
    for number, entry in enumerate(as_list(entries, where)):
        at = f"{where} {number}"
        try:
            found[_id(entry, "image_id", at)].append((at, entry))
        except DatasetError as error:
            faults.add(error)
    return found


def _annotated(where: str, entry: dict, picture: Path, image_id: int) -> Person | None:
    if _id(entry, "category_id", where) != PERSON:
        return None
    joints = numbers(entry, "keypoints", 3 * len(COCO.keypoints), where).reshape(-1, 3)
    if not np.isin(joints[:, 2], (0, 1, 2)).all():
        raise DatasetError(
            f"{where}: keypoints: wanted 0, 1 or 2 as visibility, found {joints[:, 2].tolist()}"
        )
    for name, count in FOR_OKS.items():
        if name in entry or name == "bbox":
            numbers(entry, name, count, where)
    if entry.get("iscrowd") or not joints[:, 2].any():
        return None
    visible = (joints[:, 2] > 0).astype(np.float32)
    number = _id(entry, "id", where)
    return Person(picture, *_region(entry, where), joints[:, :2], visible, image_id, number)


def _detected(where: str, entry: dict, picture: Path, image_id: int) -> Person | None:
    if _id(entry, "category_id", where) != PERSON:
        return None
    score, count = float(numbers(entry, "score", 1, where)[0]), len(COCO.keypoints)
    nothing = np.zeros((count, 2)), np.zeros(count, np.float32)
    return Person(picture, *_region(entry, where), *nothing, image_id, 0, score=score)


def _region(entry: dict, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Centre and extent, each (2,) pixels."""
    box = numbers(entry, "bbox", 4, where)
    if min(box[2:]) <= 0:
        raise DatasetError(f"{where}: bbox: wanted a positive width and height, found {box.tolist()}")
    return box[:2] + box[2:] / 2 - 0.5, MARGIN * box[2:]


def _id(entry: Any, name: str, where: str) -> int:
    return int(numbers(entry, name, 1, where)[0])
