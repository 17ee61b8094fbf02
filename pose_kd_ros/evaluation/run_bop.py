# SPDX-License-Identifier: Apache-2.0
"""A bundle on a BOP data set, either layout, through the estimator of the node: every image by itself,
the whole frame searched. A run that was stopped goes on where it was; all it writes is the same each time
on one machine, but for times.

Exit codes: 0, 2 where something is refused, 3 where images are damaged and the others were evaluated.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..bundle.find import find_bundle
from ..bundle.manifest import BundleError
from ..bundle.store import MANIFEST, sha256
from ..core.camera import Camera
from ..core.mesh import Mesh
from ..datasets.bop import BopDataset, BopImage
from ..datasets.bop.folder import find_split, load_objects, mesh_path, surface_points
from ..datasets.bop.results import BopResult, write_results
from ..datasets.faults import DatasetError, Faults
from ..datasets.meshes import load_mesh, load_small_mesh
from ..provenance import environment
from ..recordings.bags import BagError
from . import figures, metrics
from .console import DAMAGED, OK, REFUSED
from .frame import Frame
from .frames import Objects, Points, frame_of_image, measured_poses
from .loading import add_refine_option, bundle_facts, load_estimator, load_refiner, say_refined
from .looks import camera_of, run
from .matching import match_image
from .outcome import OutcomeError, write_summary
from .progress import Progress
from .reports import baseline
from .reports.page import finish
from .reports.worst import write_overlays
from .vsd import Caster

SAME_SIZE = 0.05  # diameters that differ by a larger share are of two objects
TIMES = ("ms_per_image", "latency_p50_ms", "latency_p95_ms", "latency_p99_ms")
BLIND = ("images", "found_rate", "poses_per_image")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``evaluate --bop FOLDER --bundle B``."""
    add = parser.add_argument
    add("--bop", type=Path, required=True, metavar="FOLDER", help="data set with one test split, or a split")
    add("--bundle", required=True, metavar="B", help="folder or name")
    add("--given-boxes", action="store_true", help="look in the true boxes instead of the whole frame")
    add("--limit", type=int, metavar="N", help="the first N images alone")
    add("--out", type=Path, metavar="DIR", help="where to write (default: evaluation_<FOLDER>)")
    add_refine_option(parser)
    add("--depth", action="store_true", help="refine poses on the depth images, too, after --refine")
    add("--no-vsd", action="store_true", help="leave VSD out, even where there is depth")
    add("--fresh", action="store_true", help="begin again, whatever is in DIR")
    baseline.add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Evaluate, print and write the figures; returns the exit code."""
    try:
        out = args.out or Path(f"evaluation_{args.bop.resolve().name}")
        if args.against:
            baseline.given(args, out)
        code, summary = evaluate(args, out)
        verdict = finish(out, args)
    except (BagError, DatasetError, BundleError, OutcomeError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return REFUSED
    for fault in summary["faults"]:
        print(f"fault: {fault}", file=sys.stderr)
    return code or verdict


def evaluate(args: argparse.Namespace, out: Path) -> tuple[int, dict]:
    """Evaluate one bundle into ``out``; returns exit code and summary. Raises DatasetError, BundleError,
    BagError where ``out`` holds another evaluation."""
    split, faults = find_split(args.bop), Faults("skip")

    def mesh_of(object_id: int) -> Mesh:
        return load_small_mesh(mesh_path(split, object_id))

    estimator = load_estimator(args.bundle, 1.0, args.refine, mesh_of)
    on_depth = load_refiner("depth" if args.depth else "none", estimator.bundle, mesh_of)
    if estimator.bundle.manifest.needs_regions and not args.given_boxes:
        raise BundleError(
            f"bundle {args.bundle}: wanted one that searches, found one that needs regions: "
            "export it with --locator, or give --given-boxes"
        )
    check_sizes(split, estimator.objects)
    images = dict(enumerate(BopDataset(split, faults, truth_wanted=False).images[: args.limit]))
    if args.given_boxes and not all(image.has_truth for image in images.values()):
        raise DatasetError(f"{split}: --given-boxes: wanted true poses of all images, found some without")
    points = surface_points(split, estimator.objects)
    caster = caster_for(split, estimator.objects, images.values()) if not args.no_vsd else None
    with Progress(out, identity(args, split), args.fresh) as progress:
        done = {frame.number for frame in progress.frames()}
        left = {number: image for number, image in images.items() if number not in done}
        numbers = {id(image): number for number, image in left.items()}
        there, total = len(images) - len(left), len(images)
        bar = tqdm(left.values(), initial=there, total=total, unit="img", disable=None)
        for look in run(estimator, bar, faults, args.given_boxes, on_depth):
            progress.add(frame_of_image(numbers[id(look.image)], look, estimator.objects, points), {})
    say_refined("edges", estimator.refiner)
    say_refined("depth", on_depth)
    frames = [frame for frame in progress.frames() if frame.number in images]
    if not frames:
        reasons = "; ".join(faults.kinds) or "none is there"
        raise DatasetError(f"{split}: no image could be evaluated: {reasons}")
    write_overlays(out, frames, estimator.objects, lambda frame: picture(images[frame.number]))
    write_results(out / "results.csv", results_of(frames))
    known = [frame for frame in frames if frame.has_truth]
    without_truth = sum(not image.has_truth for image in images.values())
    notes = {fault.replace(f"{split.parent}/", ""): 1 for fault in faults.kinds}
    if 0 < without_truth < len(images):
        share = f"{without_truth} of {len(images)} images"
        notes[f"{share} have no true poses (scene_gt): not measured"] = without_truth
    visible = {} if caster is None else vsd_figures(known, images, estimator.objects, points, caster)
    summary = write_summary(
        out,
        kind="bop",
        source=f"{split.resolve().parent.name}/{split.resolve().name}",
        bundle=bundle_facts(estimator.bundle),
        frames=len(frames),
        figures=all_figures(frames, estimator.objects, points, visible, args.given_boxes),
        objects=object_figures(frames, estimator.objects, points),
        curves=figures.curves(frames, estimator.objects),
        environment=environment(),
        faults=notes,
    )
    return DAMAGED if faults.kinds else OK, summary


def picture(image: BopImage) -> tuple[np.ndarray, Camera]:
    """The pixels and their camera."""
    pixels = image.load_rgb()
    return pixels, camera_of(image, pixels)


def identity(args: argparse.Namespace, split: Path) -> dict:
    """What the lines of a run depend on: a run goes on only where all of it is the same."""
    return {
        "data": f"{split.resolve().parent.name}/{split.resolve().name}",
        "bundle": sha256(find_bundle(args.bundle) / MANIFEST),
        "given_boxes": args.given_boxes,
        "refine": args.refine,
        "depth": args.depth,
    }


def check_sizes(split: Path, objects: Objects) -> None:
    """Refuse a data set whose objects of the bundle's ids are others, seen by
    their diameters: DatasetError."""
    theirs = load_objects(split)
    for key, model in objects.items():
        if key in theirs and abs(theirs[key].diameter / model.diameter - 1) > SAME_SIZE:
            raise DatasetError(
                f"{split.parent}: object {key}: wanted the diameter of the bundle's {model.name}, "
                f"{model.diameter:.4g} m, found {theirs[key].diameter:.4g} m: another object"
            )


def caster_for(split: Path, objects: Objects, images) -> Caster | None:
    """The meshes for VSD; None where an image with truth has no depth. Raises DatasetError without open3d."""
    with_truth = [image for image in images if image.has_truth]
    if not with_truth or any(image.depth is None for image in with_truth):
        return None
    return Caster({i: load_mesh(mesh_path(split, i)) for i in objects})


def all_figures(
    frames: Sequence[Frame],
    objects: Objects,
    points: Points,
    visible: Mapping[str, float],
    given_boxes: bool,
) -> dict[str, float]:
    """The figures against the truth, those of VSD, and times; given_boxes: 1, if the true boxes were given.
    Images without truth have only what was found, and times."""
    blind = figures.blind_figures(frames)
    kept = TIMES if any(frame.has_truth for frame in frames) else (*BLIND, *TIMES)
    return {
        **_truth_figures(frames, objects, points),
        **visible,
        **{name: blind[name] for name in kept},
        **({"given_boxes": 1.0} if given_boxes else {}),
    }


def object_figures(frames: Sequence[Frame], objects: Objects, points: Points) -> dict:
    """{id: {class_name, figures ...}}, without those of time."""
    result = {}
    for key, model in objects.items():
        own = _truth_figures([frame.only(key) for frame in frames], {key: model}, points)
        own.pop("ms_per_image", None)
        result[str(key)] = {"class_name": model.name, **own}
    return result


def _truth_figures(frames: Sequence[Frame], objects: Objects, points: Points) -> dict:
    """Those of a recording but for its tracks; none where nothing is known of any image."""
    known = [frame for frame in frames if frame.has_truth]
    values = figures.truth_figures(known, objects, points) if known else {}
    return {name: value for name, value in values.items() if name != "id_switches"}


def vsd_figures(
    frames: Sequence[Frame],
    images: Mapping[int, BopImage],
    objects: Objects,
    points: Points,
    caster: Caster,
) -> dict[str, float]:
    """``vsd`` and ``ar``, as of ``metrics.figures``."""
    groups = []
    for frame in tqdm(frames, desc="VSD", unit="img", disable=None):
        image = images[frame.number]
        groups += match_image(image, frame.width, measured_poses(frame), objects, points, caster)
    return {name: value for name, value in metrics.figures(groups, 0, []).items() if name in ("vsd", "ar")}


def results_of(frames: Sequence[Frame]) -> list[BopResult]:
    """All estimates as BOP wants them: the time of the whole image in each line."""
    results = []
    for frame in frames:
        scene, image = map(int, frame.camera.split("/"))
        for one in frame.estimates:
            pose = one.object_id, one.score, one.T_camera_object
            results.append(BopResult(scene, image, *pose, frame.latency_ms / 1e3))
    return results
