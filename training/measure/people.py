# SPDX-License-Identifier: Apache-2.0
"""A network's figures on people: crops, its heatmaps, joints in the full image, PCKh or AP."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pose_kd_ros.bundle.store import Bundle, open_bundle
from pose_kd_ros.core.camera import Crop
from pose_kd_ros.core.heatmaps import decode_peaks
from pose_kd_ros.datasets.faults import DatasetError, Faults, OnFault
from pose_kd_ros.pipeline.network import load_network
from pose_kd_ros.pipeline.people import mean_of_mirrored
from pose_kd_ros.provenance import write_whole

from ..data.coco import PERSON
from ..data.people import People, Person
from ..data.people_crops import STRIDE, input_size
from ..data.people_source import read_people
from ..models.encoders import IMAGENET
from .people_metrics import average_precision, pckh, person_score, suppressed

MapsOf = Callable[[np.ndarray], np.ndarray]


def maps_of_bundle(bundle: Bundle) -> MapsOf:
    """Return the maps of the robot's own engine, one image at a time as the robot runs it."""
    network = load_network(bundle)

    def maps_of(images: np.ndarray) -> np.ndarray:
        return np.concatenate([network(image[None])["heatmaps"][:, 0] for image in images])

    return maps_of


@dataclass(frozen=True, eq=False)
class Found:
    """Predictions for a person: points (K, 2) pixels of the full image, NaN where there is none; scores (K,);
    area of the region that it saw, pixels squared."""

    person: Person
    points: np.ndarray
    scores: np.ndarray
    area: float


def evaluate_people(
    maps_of: MapsOf,
    people: People,
    size: int = 256,
    aspect: float = 1.0,
    flip_test: bool = True,
    batch: int = 32,
    suppress: float | None = None,
    faults: Faults | None = None,
) -> dict[str, float | str | None]:
    """PCKh of MPII's people, AP of COCO's (see ``people_metrics``), and ``people``: how many were looked at.

    maps_of: images (N, 3, height, width) float32, normalised as in training -> maps (N, K, h, w). size: their
    height; aspect: width over height. flip_test: maps are averaged with those of the mirrored image.
    suppress: of detected people who are more alike than this (0.9 in published figures), only the best stays.
    faults: pictures that cannot be read raise DatasetError or are not measured.
    """
    faults = faults or Faults()
    found = list(predictions(maps_of, people, size, aspect, flip_test, batch, faults))
    looked_at = {"people": len(found)}
    if people.head_size is not None:
        return looked_at | _pckh(found, people)
    unread = {p.image_id for p in people.persons} - {each.person.image_id for each in found}
    images = [each for each in people.images if each not in unread]
    return looked_at | average_precision(people.annotations, _results(found, suppress), images)


def predictions(
    maps_of: MapsOf, people: People, size: int, aspect: float, flip_test: bool, batch: int, faults: Faults
) -> Iterator[Found]:
    """Yield predictions for each person whose picture can be read."""
    (width, height), waiting = input_size(size, aspect), []
    mirrored = people.skeleton.mirrored() if flip_test else None
    for _, persons in groupby(people.persons, key=lambda person: person.image):
        persons = list(persons)
        try:
            picture = persons[0].load()
        except DatasetError as error:
            faults.add(error)
            continue
        for person in persons:
            crop = person.crop(width, height)
            waiting.append((person, crop, crop.apply(picture)))
            if len(waiting) == batch:
                yield from _decoded(waiting, maps_of, mirrored)
                waiting = []
    if waiting:
        yield from _decoded(waiting, maps_of, mirrored)


def _decoded(
    waiting: list[tuple[Person, Crop, np.ndarray]], maps_of: MapsOf, mirrored: np.ndarray | None
) -> Iterator[Found]:
    pixels = np.stack([image for _, _, image in waiting]).astype(np.float32) / 255
    mean, std = (np.float32(v) for v in IMAGENET)
    images = ((pixels - mean) / std).transpose(0, 3, 1, 2)
    for (person, crop, _), maps in zip(waiting, mean_of_mirrored(maps_of, images, mirrored)):
        peaks, area = decode_peaks(maps, STRIDE), crop.width * crop.height / crop.scale**2
        yield Found(person, crop.to_full(peaks.points), peaks.scores, area)


def _pckh(found: list[Found], people: People) -> dict[str, float | str]:
    measured = [each for each in found if each.person.head_size is not None]
    if not measured:
        raise ValueError(f"{people.annotations}: wanted a head size ({people.head_size}), found none")
    figures = pckh(
        np.stack([each.points for each in measured]),
        np.stack([each.person.points for each in measured]),
        np.stack([each.person.visible for each in measured]),
        np.array([each.person.head_size for each in measured]),
        people.skeleton.keypoints,
    )
    return figures | {"measured": len(measured), "head_size": people.head_size}


def _results(found: list[Found], suppress: float | None) -> list[dict]:
    results = []
    for _, of_image in groupby(found, key=lambda each: each.person.image_id):
        of_image = list(of_image)
        points = np.nan_to_num(np.stack([each.points for each in of_image]))
        scores = np.array([person_score(each.person.score, each.scores) for each in of_image])
        areas = np.array([each.area for each in of_image])
        kept = range(len(of_image)) if suppress is None else suppressed(points, scores, areas, suppress)
        results += [_result(of_image[i], points[i], scores[i]) for i in kept]
    return results


def _result(found: Found, points: np.ndarray, score: float) -> dict:
    keypoints = np.c_[points, found.scores].ravel().tolist()
    return {
        "image_id": found.person.image_id,
        "category_id": PERSON,
        "keypoints": keypoints,
        "score": float(score),
    }


def evaluate_people_command(
    folder: Path,
    kind: str,
    annotations: Path,
    images: Path,
    heads: Path | None,
    detections: Path | None,
    suppress: float | None,
    flip_test: bool,
    out: Path | None,
    on_fault: OnFault,
) -> None:
    """Measure, print, and write the figures. Raises ValueError for a bundle of other joints."""
    bundle, faults = open_bundle(folder), Faults(on_fault)
    people = read_people(kind, annotations, images, heads, faults, detections)
    wanted, spec = list(people.skeleton.keypoints), bundle.manifest.people
    if spec is None or spec.keypoints != wanted:
        found = "objects" if spec is None else f"{len(spec.keypoints)} joints"
        raise ValueError(f"{folder}: wanted {kind}'s {len(wanted)} joints, found {found}")
    size, aspect = bundle.manifest.input.size, bundle.manifest.input.aspect
    network = tqdm_each(maps_of_bundle(bundle), len(people.persons) * (1 + flip_test))
    figures = evaluate_people(network, people, size, aspect, flip_test, 1, suppress, faults)
    for name, value in figures.items():
        print(f"{name:28s} {value:g}" if isinstance(value, float) else f"{name:28s} {value}")
    if faults.kinds:
        print(f"{annotations}: {faults.summary(len(people.persons) + faults.images)}", flush=True)
    if out:
        write_whole(out, json.dumps(figures, indent=1) + "\n")


def tqdm_each(maps_of: MapsOf, total: int) -> MapsOf:
    """Add a progress bar."""
    bar = tqdm(total=total, unit="img")

    def counted(images: np.ndarray) -> np.ndarray:
        maps = maps_of(images)
        bar.update(len(images))
        return maps

    return counted
