# SPDX-License-Identifier: Apache-2.0
"""A bundle on a recording, through the pipeline of the node, and the figures of the run.

Every picture is processed, and in order: the node on a slow machine drops some. What is written to OUT is the
same each time on one machine, but for times. A run that was stopped goes on where it was. Exit codes: 0, 1
where a figure is worse than a baseline allows, 2 where something is refused, 3 where the recording is damaged
or most of its images were refused, and the others were evaluated, 4 for a fault of this program.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from ..bundle.find import find_bundle
from ..bundle.manifest import BundleError
from ..bundle.store import MANIFEST, sha256
from ..core.camera import Camera
from ..datasets.bop.results import BopResult, write_results
from ..datasets.faults import DatasetError
from ..pipeline.follow import ObjectFollower
from ..provenance import environment
from ..recordings.bags import Bag, BagError, open_bag
from ..recordings.images import BagFrame, BagImages, load_camera
from . import figures
from .console import DAMAGED, OK, REFUSED
from .frame import Frame
from .frame_vsd import FrameVsd
from .frames import frame_of_recording
from .loading import add_refine_option, bundle_facts, load_follower, say_refined
from .outcome import OutcomeError, write_summary
from .progress import Progress, size_of
from .reports import baseline
from .reports.compare import difference_table, write_differences
from .reports.page import finish, write_report
from .reports.worst import Worst, choose, write_overlays
from .shapes import surfaces
from .truth import Names, Truth, make_truth

UNMATCHED = "no truth at an image's stamp"
LATE = "stamp not after the last one's: the node does not use such an image"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``evaluate BAG --bundle B``."""
    add = parser.add_argument
    add("bag", type=Path, metavar="BAG", help="recording: a rosbag2 folder, or one .mcap or .db3 file")
    add(
        "--bundle",
        action="append",
        required=True,
        metavar="B",
        help="folder or name; twice: one beside the other",
    )
    add("--out", type=Path, metavar="DIR", help="where to write (default: evaluation_<BAG>)")
    add(
        "--truth",
        action="append",
        default=[],
        metavar="WHAT",
        help="true poses: tf:CHILD[,CHILD...], a topic of poses (see docs/evaluation.md) or a CSV file",
    )
    add(
        "--object",
        action="append",
        default=[],
        metavar="NAME=ID",
        help="object id of a TF frame, of a topic or of a class name of the truth",
    )
    add(
        "--mesh",
        action="append",
        default=[],
        metavar="[ID=]FILE",
        help="PLY in millimetres: errors over its surface, agreement of its outline with the image; "
        "'box' for an object that fills its box",
    )
    add(
        "--object-scale",
        type=float,
        default=1.0,
        metavar="S",
        help="the real objects' size over the bundle's",
    )
    add_refine_option(parser)
    add("--depth", metavar="TOPIC", help="registered depth images: VSD of objects with truth and --mesh")
    add("--camera", metavar="TOPIC", help="image topic, where several were recorded")
    add("--camera-info", type=Path, metavar="FILE", help="calibration file of ROS, in place of CameraInfo")
    add("--limit", type=int, metavar="N", help="stop after N images")
    add("--fresh", action="store_true", help="begin again, whatever is in DIR")
    baseline.add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Evaluate each bundle, print and write the figures; returns the exit code."""
    try:
        out = args.out or Path(f"evaluation_{args.bag.resolve().stem}")
        folders = folders_of(out, args.bundle)
        if args.against and len(folders) > 1:
            raise OutcomeError(f"against: wanted one bundle, found {len(folders)}")
        if args.against:
            baseline.given(args, out)
        codes, summaries = [], []
        for bundle, folder in zip(args.bundle, folders):
            code, summary = evaluate(args, bundle, folder)
            codes.append(code)
            summaries.append(summary)
        verdict = report(args, out, folders, summaries)
        for fault, count in summaries[0]["faults"].items():
            print(f"fault ({count} x): {fault}", file=sys.stderr)
        return max(codes) or verdict
    except (BagError, BundleError, DatasetError, OutcomeError, ImportError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return REFUSED


def report(args: argparse.Namespace, out: Path, folders: Sequence[Path], summaries: Sequence[dict]) -> int:
    """Write and print what people read; returns 1 where a figure is worse than a baseline allows."""
    if len(folders) == 1:
        return finish(out, args)
    for folder in folders:
        write_report(folder)
    names = [folder.name for folder in folders]
    print(difference_table(names, [summary["figures"] for summary in summaries]))
    write_differences(out, names, summaries)
    return OK


def folders_of(out: Path, bundles: Sequence[str]) -> list[Path]:
    """OUT itself for one bundle, else a folder in it for each, by the bundles' names."""
    if len(bundles) == 1:
        return [out]
    seen: Counter[str] = Counter()
    folders = []
    for bundle in bundles:
        name = find_bundle(bundle).resolve().name
        seen[name] += 1
        folders.append(out / (name if seen[name] == 1 else f"{name}_{seen[name]}"))
    return folders


def evaluate(args: argparse.Namespace, bundle: str, out: Path) -> tuple[int, dict]:
    """Evaluate one bundle into ``out``; returns exit code and summary. Raises BagError, BundleError."""
    follower = load_follower(bundle, args.object_scale, args.refine)
    objects = follower.estimator.objects
    points, silhouettes = surfaces(args.mesh, objects, args.object_scale)
    camera = load_camera(args.camera_info) if args.camera_info else None
    if args.depth and not args.truth:
        raise BagError("--depth: wanted --truth, too, found none: VSD compares with true poses")
    with open_bag(args.bag, salvage=True) as bag, contextlib.ExitStack() as stack:
        images = BagImages(bag, args.camera, camera)
        names = Names(parse_objects(args.object), objects)
        truth = joined([make_truth(source, bag, names, images.faults) for source in args.truth])
        frame_vsd = None
        if args.depth:
            beside = stack.enter_context(open_bag(args.bag, salvage=True))
            frame_vsd = FrameVsd.make(beside, args.depth, silhouettes, objects)
        progress = stack.enter_context(Progress(out, identity(args, follower, images.topic), args.fresh))
        if progress.follower is not None:
            follower.restore(progress.follower)
        for image in followable(images, follower, progress, args.limit):
            expected = follower.tracker.predict(seconds(image))
            if len(expected) > 1:
                import scipy.optimize  # noqa: F401  the tracker's, of two objects: not part of a frame's time
            started = time.perf_counter()
            followed = follower.process(seconds(image), image.image, image.camera)
            spent = 1e3 * (time.perf_counter() - started)
            follower.look_around()
            true = truth(image)
            frame = frame_of_recording(image, followed, expected, true, objects, points, silhouettes, spent)
            if frame_vsd is not None and true is not None:
                frame = frame_vsd.measure(image, frame)
            progress.add(frame, follower.state())
        say_refined("edges", follower.estimator.refiner)
        frames = progress.frames()
        if not frames:
            reasons = "; ".join(images.faults) or "none is there"
            raise BagError(f"{args.bag}: no image could be evaluated: {reasons}")
        known = sum(frame.has_truth for frame in frames)
        if args.truth and not known:
            found = f"none, of {len(frames)} images; do their stamps come from one clock?"
            raise BagError(
                f"--truth {' '.join(args.truth)}: wanted poses at the images' stamps, found {found}"
            )
        if args.truth and known < len(frames):
            images.faults[f"{UNMATCHED}: not judged"] += len(frames) - known
        write_overlays(out, frames, objects, pictures(bag, images.topic, camera, choose(frames)))
    write_results(out / "results.csv", results_of(frames))
    summary = write_summary(
        out,
        kind="bag",
        source=args.bag.resolve().name,
        bundle=bundle_facts(follower.estimator.bundle),
        frames=len(frames),
        figures=figures.all_figures(frames, objects, points)
        | {"refused_images": float(images.refused)}
        | ({"judged_images": float(known)} if args.truth else {}),
        objects=figures.object_figures(frames, objects, points),
        curves=figures.curves(frames, objects),
        environment=environment(),
        faults=images.faults + Counter(one.depth_fault for one in frames if one.depth_fault is not None),
    )
    return DAMAGED if images.damaged or images.refused > len(frames) else OK, summary


def pictures(
    bag: Bag, topic: str, camera: Camera | None, chosen: Sequence[Worst]
) -> Callable[[Frame], tuple]:
    """Read the chosen frames once more; returns a function from a frame to its image and camera."""
    wanted, found = {worst.frame for worst in chosen}, {}
    for image in BagImages(bag, topic, camera).frames():
        if image.frame in wanted:
            found[image.frame] = image.image, image.camera
        if len(found) == len(wanted):
            break
    return lambda frame: found[frame.number]


def followable(
    images: BagImages, follower: ObjectFollower, progress: Progress, limit: int | None
) -> Iterator[BagFrame]:
    """Yield the images that are to be processed next, with a progress bar. Those that the node would not use
    are counted; where stamps jump back, as in a bag that loops, the tracks are forgotten."""
    done = {frame.number for frame in progress.frames()}
    with tqdm(total=images.count, unit="image", disable=None) as bar:
        for frame in images.frames():
            if limit is not None and len(done) >= limit:
                return
            bar.update(frame.frame + 1 - bar.n)
            if frame.frame in done:
                continue
            order = "late" if frame.frame <= progress.last else follower.order(seconds(frame))
            if order == "late":
                images.refuse(LATE)
                continue
            if order == "jumped":
                follower.reset()
            yield frame
            done.add(frame.frame)


def seconds(frame: BagFrame) -> float:
    """An image's stamp as the node reckons it."""
    whole, rest = divmod(frame.stamp_ns, 1_000_000_000)
    return whole + 1e-9 * rest


def identity(args: argparse.Namespace, follower: ObjectFollower, camera: str) -> dict:
    """What the lines of a run depend on: a run goes on only where all of it is the same."""
    bundle = follower.estimator.bundle
    return {
        "recording": args.bag.resolve().name,
        "bytes": size_of(args.bag),
        "bundle": sha256(bundle.folder / MANIFEST),
        "camera": camera,
        "camera_info": sha256(args.camera_info) if args.camera_info else None,
        "object_scale": args.object_scale,
        "refine": args.refine,
        "truth": list(args.truth),
        "object": list(args.object),
        "mesh": list(args.mesh),
        "depth": args.depth,
    }


def parse_objects(texts: Sequence[str]) -> dict[str, int]:
    """NAME=ID ... as a dictionary. Raises BagError."""
    pairs = [text.rpartition("=") for text in texts]
    for text, (name, _, number) in zip(texts, pairs):
        if not name or not number.isdigit():
            raise BagError(f"--object: wanted NAME=ID with a number as ID, found {text!r}")
    return {name: int(number) for name, _, number in pairs}


def joined(sources: Sequence[Truth]) -> Truth:
    """Return several sources as one; None for an image that none of them knows."""

    def at(frame: BagFrame):
        known = [poses for source in sources if (poses := source(frame)) is not None]
        return [pose for poses in known for pose in poses] if known else None

    return at


def results_of(frames: Sequence[Frame]) -> list[BopResult]:
    """The measured estimates in BOP's terms: one scene, the time of the whole image in each line."""
    return [
        BopResult(0, frame.number, one.object_id, one.score, one.T_camera_object, frame.latency_ms / 1e3)
        for frame in frames
        for one in frame.measured_estimates
    ]
