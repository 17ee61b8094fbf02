# SPDX-License-Identifier: Apache-2.0
"""Scores a results file in BOP's format, ours or a peer's, on any targets of a data set.

Protocol: BOP19's localisation task. A target is an object in an image and how many instances of it are asked
for: those most visible; of the estimates for it that many count, best score first.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..core.object_model import ObjectModel
from ..datasets.bop import BopDataset, BopImage, BopInstance, BopTarget, load_targets
from ..datasets.bop.folder import TARGETS, find_split, load_objects, mesh_path, surface_points
from ..datasets.bop.results import BopResult, read_results
from ..datasets.faults import DatasetError
from ..datasets.meshes import load_mesh
from ..datasets.source import Source
from ..datasets.values import numbers, read_json
from ..pipeline.solve import ObjectPose
from .console import OK, REFUSED, text_table
from .frame import VISIBLE
from .matching import ObjectMatches, match_image
from .metrics import by_object, figures, localisation, localised
from .vsd import Caster

Key = tuple[int, int]  # scene, image


@dataclass(frozen=True)
class Scored:
    """figures: flat, in all. objects: class name and figures by id."""

    figures: dict[str, float]
    objects: dict[str, dict]


@dataclass(frozen=True)
class View:
    """An image with its true poses, and its width in pixels."""

    image: BopImage
    width: int


def score(
    folder: Path,
    results: Sequence[BopResult],
    targets: Sequence[BopTarget] | None = None,
    truth: Sequence[BopResult] | None = None,
    with_vsd: bool = True,
) -> Scored:
    """Figures of ``results`` on a data set.

    targets: without them those of ``targets_of``. truth: true poses instead of scene_gt.json's. with_vsd:
    where there is depth. Raises DatasetError where targets, truth, results and models do not go together.
    """
    split = find_split(folder)
    objects, every = load_objects(split), {_key(i): i for i in BopDataset(split).images}
    asked = targets_of(split, every, truth) if targets is None else targets
    asked_of, found_of = _by_image(asked), _by_image(results)
    _check_known(objects, [*asked, *results])
    with_vsd = with_vsd and all(k in every and every[k].depth is not None for k in asked_of)
    meshes = {i: load_mesh(mesh_path(split, i)) for i in objects} if with_vsd else {}
    caster = Caster(meshes) if with_vsd else None
    points, groups = surface_points(split, objects), []
    views = _views(split, every, asked_of, truth)
    for key, view in tqdm(views, total=len(asked_of), unit="img", disable=None):
        _check_targets(view.image, asked_of[key])
        poses = [as_pose(result) for result in found_of.get(key, ())]
        compared = match_image(view.image, view.width, poses, objects, points, caster)
        groups += [_with_asked(group, view.image, asked_of[key]) for group in compared]
    seconds = [found_of[key][0].seconds for key in asked_of if key in found_of]
    images = len(asked_of)
    return Scored(
        _figures(groups, objects, images, [s for s in seconds if s >= 0]),
        by_object(groups, objects, lambda own: _figures(own, objects, images, [])),
    )


def targets_of(
    split: Path, images: Mapping[Key, BopImage], truth: Sequence[BopResult] | None
) -> list[BopTarget]:
    """Return the default targets: all of ``truth``; without it the data set's own list of targets; without
    that, all instances of which at least VISIBLE is seen."""
    path = split.parent / TARGETS
    if truth is None and split.name.startswith("test") and path.is_file():
        return list(load_targets(path))
    counts: dict[tuple[int, int, int], int] = defaultdict(int)
    for result in truth or ():
        counts[result.scene_id, result.image_id, result.object_id] += 1
    for image in images.values() if truth is None else ():
        for instance in image.instances:
            if instance.visib_fract >= VISIBLE:
                counts[image.scene_id, image.image_id, instance.object_id] += 1
    return [BopTarget(*key, count) for key, count in sorted(counts.items())]


def as_pose(result: BopResult) -> ObjectPose:
    """An estimate as the comparison knows it; what a results file does not tell is empty."""
    pose, score = result.T_camera_object, result.score
    return ObjectPose(
        result.object_id, pose, np.eye(6), score, np.zeros(4), cells=0, support=0.0, sigma_px=0.0
    )


def _figures(groups: list[ObjectMatches], objects, images: int, seconds: list[float]) -> dict[str, float]:
    """False alarms and precision are of all estimates in the images, all else of those that count."""
    best = [localisation(group) for group in groups if group.is_target.any()]
    every = figures(groups, images, [])
    values = figures(best, images, seconds) | localised(best, objects)
    return values | {name: every[name] for name in ("false_positives_per_image", "precision_05d")}


def _with_asked(group: ObjectMatches, image: BopImage, targets: Sequence[BopTarget]) -> ObjectMatches:
    """The group with its target's instances asked for: the most visible ones."""
    wanted = sum(t.count for t in targets if t.object_id == group.object_id)
    visible = [i.visib_fract for i in image.instances if i.object_id == group.object_id]
    asked = np.zeros(len(visible), bool)
    asked[np.argsort(-np.array(visible), kind="stable")[:wanted]] = True
    return replace(group, is_target=asked)


def _check_targets(image: BopImage, targets: Sequence[BopTarget]) -> None:
    for target in targets:
        true = sum(i.object_id == target.object_id for i in image.instances)
        if target.count > true:
            raise DatasetError(
                f"targets: object {target.object_id} in scene {image.scene_id}, image {image.image_id}: "
                f"wanted {target.count}, found {true} true poses"
            )


def _views(split: Path, images, asked_of, truth: Sequence[BopResult] | None) -> Iterator[tuple[Key, View]]:
    true_of = None if truth is None else _by_image(truth)
    for key in asked_of:
        image = images.get(key)
        if image is None and true_of is None:
            raise DatasetError(f"{split}: wanted scene {key[0]}, image {key[1]}, of the targets, found none")
        if true_of is None:
            yield key, View(image, image.load_rgb().shape[1])
        else:
            yield key, _view_with(split, key, image, true_of.get(key, ()))


def _view_with(split: Path, key: Key, image: BopImage | None, truth: Sequence[BopResult]) -> View:
    """A view with the poses of ``truth``; the camera is camera.json's where the image is not there."""
    path = split.parent / "camera.json"
    instances = tuple(BopInstance(r.object_id, r.T_camera_object, None, None, 1.0, None) for r in truth)
    if image is not None:
        return View(replace(image, instances=instances), image.load_rgb().shape[1])
    camera = read_json(path)
    fx, fy, cx, cy, width = (float(numbers(camera, n, 1, path)[0]) for n in ("fx", "fy", "cx", "cy", "width"))
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    return View(BopImage(*key, Source(path), K, None, 1.0, instances), int(width))


def _by_image(entries) -> dict[Key, list]:
    found = defaultdict(list)
    for entry in entries:
        found[_key(entry)].append(entry)
    return found


def _key(entry) -> Key:
    return entry.scene_id, entry.image_id


def _check_known(objects: Mapping[int, ObjectModel], entries) -> None:
    unknown = sorted({entry.object_id for entry in entries} - set(objects))
    if unknown:
        raise DatasetError(f"results or targets: wanted objects of {sorted(objects)}, found {unknown}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bop", type=Path, required=True, metavar="FOLDER", help="data set or split")
    parser.add_argument("--results", type=Path, required=True, metavar="CSV", help="estimates, BOP's format")
    parser.add_argument("--targets", type=Path, metavar="JSON", help=f"asked for instead of {TARGETS}")
    parser.add_argument("--truth", type=Path, metavar="CSV", help="true poses instead of scene_gt.json's")
    parser.add_argument("--no-vsd", action="store_true", help="leave VSD out, even where there is depth")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def main(args: argparse.Namespace) -> int:
    """Score the file and print; returns the exit code, 2 where something is refused."""
    try:
        results = read_results(args.results)
        targets = None if args.targets is None else load_targets(args.targets)
        truth = None if args.truth is None else read_results(args.truth)
        scored = score(args.bop, results, targets, truth, not args.no_vsd)
    except DatasetError as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return REFUSED
    print(as_json(args.results, scored) if args.json else as_table(scored))
    return OK


def as_json(results: Path, scored: Scored) -> str:
    """Figures of nothing (NaN) are null."""
    objects = {i: {n: _null(v) for n, v in entry.items()} for i, entry in scored.objects.items()}
    in_all = {name: _null(value) for name, value in scored.figures.items()}
    return json.dumps({"results": results.name, "figures": in_all, "objects": objects}, indent=1)


def _null(value):
    return None if isinstance(value, float) and np.isnan(value) else value


def as_table(scored: Scored) -> str:
    """A line a figure; a column for all objects and one for each."""
    columns = [scored.figures, *scored.objects.values()]
    rows = [[name, *(_cell(c.get(name)) for c in columns)] for name in scored.figures]
    return text_table(["figure", "all", *scored.objects], rows)


def _cell(value) -> str:
    """Empty where a figure is not one of objects, a dash where there was nothing to measure."""
    return "" if value is None else "–" if np.isnan(value) else f"{value:.4g}"
