# SPDX-License-Identifier: Apache-2.0
"""The verb ``export``: write a run as a bundle, choose its thresholds, and measure it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np

from pose_kd_ros.bundle.manifest import DecodeSpec, check_locator, check_may_have_locator
from pose_kd_ros.bundle.store import MANIFEST, Bundle, open_bundle
from pose_kd_ros.datasets.faults import Faults, OnFault
from pose_kd_ros.provenance import write_whole

from ..config import RunConfig, load_config
from ..families import family_of
from ..fit.teacher import EVALUATION
from ..measure.calibrate import choose
from ..measure.evaluate import rounded
from ..measure.people import evaluate_people, people_estimator
from .bundle import with_figures, write_run

PRECISION_RECALL = "precision_recall.svg"  # in the run's folder


def export_with_locator(
    run: Path,
    out: Path,
    names: dict[int, str],
    search_size: int,
    val_images: int,
    locator: Path | None,
    object_runs: tuple[Path, ...] = (),
) -> str:
    """Export a run. If ``locator`` is given, put it into the bundle to find the objects: a keypoint bundle,
    or a run of the keypoint family, which is exported with the same settings.

    Raises ValueError, before any work, for a locator that does not fit the run.
    """
    if locator is None:
        return export_run(run, out, names, search_size, val_images, object_runs=object_runs)
    if object_runs:
        raise ValueError(
            "--object-runs: wanted none with --locator, found some; with object runs, the run itself searches"
        )
    config = load_config(run)
    check_may_have_locator(config.network.family, config.people is not None)
    wanted = [model.id for model in config.load_objects()]
    with tempfile.TemporaryDirectory() as work:
        place = locator
        if not (locator / MANIFEST).exists():
            finder = load_config(locator)
            check_locator(finder.network.family, [model.id for model in finder.load_objects()], wanted)
            place = Path(work, finder.name)
            print(export_run(locator, place, {}, search_size, val_images), flush=True)
        bundle = open_bundle(place)
        check_locator(bundle.manifest.family, [model.id for model in bundle.objects], wanted)
        return export_run(run, out, names, search_size, val_images, bundle)


def export_run(
    run: Path,
    out: Path,
    names: dict[int, str],
    search_size: int,
    val_images: int,
    locator: Bundle | None = None,
    object_runs: tuple[Path, ...] = (),
) -> str:
    """Write the run's last checkpoint as a bundle, choose thresholds and measure on held-out data, and store
    both in the bundle; return a line to print.

    locator: is put into the bundle, and finds the objects during measurement.
    """
    config = load_config(run)
    family = family_of(config)
    decode = DecodeSpec(family.cell_score, 0.0, [])
    others = tuple(load_config(each) for each in object_runs)
    search_px = whole_frame_px(config, search_size) if family.searches else config.input_size[1]
    bundle = write_run(config, out, names, search_px, decode, locator, others)
    if val_images:
        measure = measured_on_people if config.people else measured_on_objects
        bundle = measure(config, bundle, val_images)
    return f"{bundle.folder}: {bundle.manifest.network.gflop} GFLOP, {bundle.manifest.training.metrics}"


def whole_frame_px(config: RunConfig, search_size: int) -> int:
    """Round the longer side of a whole frame up to a multiple of the network's input stride."""
    stride = config.network.input_stride
    return -(-search_size // stride) * stride


def measured_on_objects(config: RunConfig, bundle: Bundle, val_images: int) -> Bundle:
    """Return the bundle with thresholds and figures from the run's validation split, if it has one."""
    if not config.val_split:
        return bundle
    chosen = choose(bundle, config.data / config.val_split, val_images, config.faults)
    bundle = with_figures(bundle, chosen.decode, chosen.metrics)
    write_evaluation(config.folder, bundle.manifest.training.steps, chosen.metrics)
    plot = config.folder / PRECISION_RECALL
    draw_precision_recall(plot, chosen.precision_recall, chosen.decode.pose_score)
    return bundle


def calibrate_bundle(folder: Path, split: Path, val_images: int, on_fault: OnFault) -> str:
    """Choose a bundle's thresholds and covariances again, on a split, and write it in its place; return a
    line to print. Raises ValueError for a bundle for people."""
    bundle = open_bundle(folder)
    if bundle.manifest.people:
        raise ValueError(f"{folder}: wanted objects, found people, for whom nothing is fitted")
    chosen = choose(bundle, split, val_images, on_fault)
    bundle = with_figures(bundle, chosen.decode, chosen.metrics)
    return f"{bundle.folder}: {chosen.decode}, {chosen.metrics}"


def measured_on_people(config: RunConfig, bundle: Bundle, val_people: int) -> Bundle:
    """Return the bundle with figures from the first ``val_people`` people of the run's validation files."""
    source = config.people
    assert source is not None  # ``export_run`` asks
    if not source.val_annotations:
        return bundle
    people = source.load(True, Faults(config.faults)).first(val_people)
    found = evaluate_people(people_estimator(bundle, flip_test=False), people)
    metrics = rounded({name: value for name, value in found.items() if isinstance(value, (int, float))})
    if people.head_size is not None:
        metrics["official_head_boxes"] = float(source.heads is not None)
    bundle = with_figures(bundle, bundle.manifest.decode, metrics)
    write_evaluation(config.folder, bundle.manifest.training.steps, metrics)
    return bundle


def write_evaluation(run: Path, step: int, metrics: dict[str, float]) -> None:
    """Write the figures to the run's folder: without them it is refused as a teacher (``fit.teacher``)."""
    write_whole(Path(run) / EVALUATION, json.dumps({"step": step, "metrics": metrics}, indent=1) + "\n")


def draw_precision_recall(path: Path, curve: dict[str, list[float]], threshold: float) -> None:
    """Draw precision over recall on held-out images, with the point of the bundle's threshold."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(curve["recall"], curve["precision"])
    point = int(np.searchsorted(curve["score"], threshold))
    axes.plot(curve["recall"][point], curve["precision"][point], "o", label=f"pose_score {threshold:g}")
    axes.set(xlabel="recall (MSSD < 0.5 diameters)", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(loc="lower left")
    figure.savefig(path)
