# SPDX-License-Identifier: Apache-2.0
"""Measure a bundle for people: PCKh or AP of the robot's estimator in annotated or detected boxes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pose_kd_ros.bundle.store import Bundle, open_bundle
from pose_kd_ros.datasets.faults import DatasetError, Faults, OnFault
from pose_kd_ros.pipeline.network import load_network
from pose_kd_ros.pipeline.people import PeopleEstimator
from pose_kd_ros.pipeline.preprocess import crop_about
from pose_kd_ros.pipeline.region import Region
from pose_kd_ros.provenance import write_whole

from ..data.coco import PERSON
from ..data.people import MARGIN, People, Person
from ..data.people_source import read_people
from .people_metrics import average_precision, pckh, person_score, suppressed


@dataclass(frozen=True, eq=False)
class Found:
    """Predictions for a person: points (K, 2) pixels of the full image, NaN where there is none; scores (K,);
    area of the region that the network saw, pixels squared."""

    person: Person
    points: np.ndarray
    scores: np.ndarray
    area: float


def people_estimator(bundle: Bundle, flip_test: bool) -> PeopleEstimator:
    """Return the robot's estimator. flip_test: average the maps with those of the mirrored crop."""
    return PeopleEstimator(bundle, load_network(bundle), flip_test=flip_test)


def evaluate_people(
    estimator: PeopleEstimator, people: People, suppress: float | None = None, faults: Faults | None = None
) -> dict[str, float | str | None]:
    """Return PCKh for MPII or AP for COCO (see ``people_metrics``), and ``people``, the number of people.

    suppress: of detected people who are more similar than this (0.9 in published figures), keep only the
    best. faults: pictures that cannot be read raise DatasetError or are not measured.
    """
    found = list(predictions(estimator, people, faults or Faults()))
    looked_at: dict[str, float | str | None] = {"people": len(found)}
    if people.head_size is not None:
        return {**looked_at, **_pckh(found, people)}
    unread = {p.image_id for p in people.persons} - {each.person.image_id for each in found}
    images = [each for each in people.images if each not in unread]
    return {**looked_at, **average_precision(people.annotations, _results(found, suppress), images)}


def predictions(estimator: PeopleEstimator, people: People, faults: Faults) -> Iterator[Found]:
    """Yield predictions for each person whose picture can be read."""
    persons = tqdm(people.persons, unit="person", disable=None)
    for _, of_image in groupby(persons, key=lambda person: person.image):
        here = list(of_image)
        try:
            picture = here[0].load()
        except DatasetError as error:
            faults.add(error)
            continue
        for person, found in zip(here, estimator.estimate(picture, [region_of(person) for person in here])):
            crop = crop_about(found.box, estimator.spec)
            area = crop.width * crop.height / crop.scale**2
            yield Found(person, found.points, found.scores, area)


def region_of(person: Person) -> Region:
    """Return the box that the estimator enlarges, by its margin, to the region of a training sample."""
    half = person.extent / (2 * MARGIN)
    return Region(np.concatenate([person.center - half, person.center + half]))


def _pckh(found: list[Found], people: People) -> dict[str, float | str | None]:
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
    return {**figures, "measured": len(measured), "head_size": people.head_size}


def _results(found: list[Found], suppress: float | None) -> list[dict]:
    results = []
    for _, of_image in groupby(found, key=lambda each: each.person.image_id):
        here = list(of_image)
        points = np.nan_to_num(np.stack([each.points for each in here]))
        scores = np.array([person_score(each.person.score, each.scores) for each in here])
        areas = np.array([each.area for each in here])
        kept = range(len(here)) if suppress is None else suppressed(points, scores, areas, suppress)
        results += [_result(here[i], points[i], scores[i]) for i in kept]
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
    """Measure a bundle; print the figures, and write them to ``out``. Raises ValueError for other joints."""
    bundle, faults = open_bundle(folder), Faults(on_fault)
    people = read_people(kind, annotations, images, heads, faults, detections)
    wanted, spec = list(people.skeleton.keypoints), bundle.manifest.people
    if spec is None or spec.keypoints != wanted:
        found = "objects" if spec is None else f"{len(spec.keypoints)} joints"
        raise ValueError(f"{folder}: wanted {kind}'s {len(wanted)} joints, found {found}")
    figures = evaluate_people(people_estimator(bundle, flip_test), people, suppress, faults)
    for name, value in figures.items():
        print(f"{name:28s} {value:g}" if isinstance(value, float) else f"{name:28s} {value}")
    if faults.kinds:
        print(f"{annotations}: {faults.summary(len(people.persons) + faults.images)}", flush=True)
    if out:
        write_whole(out, json.dumps(figures, indent=1) + "\n")
