"""What ``python -m training export`` does: write a run as a bundle, choose its thresholds, measure it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np

from pose_kd_ros.bundle.manifest import DecodeSpec, check_locator, check_may_have_locator
from pose_kd_ros.bundle.store import MANIFEST, Bundle, open_bundle
from pose_kd_ros.evaluation.bop import Faults

from ..config import RunConfig, load_config
from ..fit.teacher import EVALUATION
from ..measure.calibrate import choose
from ..measure.evaluate import rounded
from ..measure.people import evaluate_people, maps_of_bundle
from ..render.files import write_whole
from .bundle import export, with_figures

JOINT_SCORE = 0.2  # joints below it are not drawn, and are worth nothing in COCO's scores of people either
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
    """As ``export_run``, with what finds the run's objects in the bundle, if one is named: a keypoint bundle,
    or a run of the keypoint family, exported with the same settings.

    Raises ValueError, before any work, for what is of no use to the run.
    """
    if locator is None:
        return export_run(run, out, names, search_size, val_images, object_runs=object_runs)
    if object_runs:
        raise ValueError("--object-runs: wanted none with --locator: with them, the run itself searches")
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
    """Export, choose thresholds on held-out renders, measure, put both into the bundle; returns a line to
    print.

    What is chosen: the score's weights, and the lowest pose_score with few false alarms
    (``evaluate.choose``). locator: goes into the bundle, and finds the objects for what is measured.
    """
    config = load_config(run)
    if config.people:
        return export_people(config, out, val_images)
    stride = config.network.input_stride
    search_size = -(-search_size // stride) * stride  # up to what the coarsest level divides
    family = config.network.family
    if family in ("dense", "heatmap"):  # which do not search
        search_size = config.crops.size
    decode = DecodeSpec({"keypoint": 0.3, "dense": 0.5, "heatmap": 0.1, "surface": 0.5}[family], 0.0, [])
    others = tuple(load_config(each) for each in object_runs)
    bundle = export(config, out, names, search_size, decode, locator=locator, object_runs=others)
    if val_images and config.val_split:
        chosen = choose(bundle, config.data / config.val_split, val_images, config.faults)
        bundle = with_figures(bundle, chosen.decode, chosen.metrics)
        note_evaluation(run, bundle.manifest.training.steps, chosen.metrics)
        draw_precision_recall(Path(run) / PRECISION_RECALL, chosen.precision_recall, chosen.decode.pose_score)
    return f"{bundle.folder}: {bundle.manifest.network.gflop} GFLOP, {bundle.manifest.training.metrics}"


def export_people(config: RunConfig, out: Path, val_people: int) -> str:
    """Export a run on people, measure it on the first ``val_people`` of those it has to measure on, if any,
    and put the figures into the bundle; returns a line to print."""
    decode = DecodeSpec(JOINT_SCORE, 0.0, [])
    bundle = export(config, out, {}, config.input_size[1], decode)
    if val_people and config.people.val_annotations:
        people = config.people.load(True, Faults(config.faults))
        found = evaluate_people(
            maps_of_bundle(bundle), people.first(val_people), *measured_at(config), flip_test=False, batch=1
        )
        metrics = rounded({name: value for name, value in found.items() if isinstance(value, (int, float))})
        if people.head_size is not None:
            metrics["official_head_boxes"] = float(config.people.heads is not None)
        bundle = with_figures(bundle, decode, metrics)
        note_evaluation(config.folder, bundle.manifest.training.steps, metrics)
    return f"{bundle.folder}: {bundle.manifest.network.gflop} GFLOP, {bundle.manifest.training.metrics}"


def measured_at(config: RunConfig) -> tuple[int, float]:
    """Height of the input and its aspect."""
    width, height = config.input_size
    return height, width / height


def note_evaluation(run: Path, step: int, metrics: dict[str, float]) -> None:
    """Leave the figures in the run's folder: a teacher without them is refused (``training.fit.teacher``)."""
    write_whole(Path(run) / EVALUATION, json.dumps({"step": step, "metrics": metrics}, indent=1) + "\n")


def draw_precision_recall(path: Path, curve: dict[str, list[float]], threshold: float) -> None:
    """Draw precision over recall of held-out images to ``path``, with the point of the bundle's threshold."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(curve["recall"], curve["precision"])
    point = int(np.searchsorted(curve["score"], threshold))
    axes.plot(curve["recall"][point], curve["precision"][point], "o", label=f"pose_score {threshold:g}")
    axes.set(xlabel="recall (MSSD < 0.5 diameters)", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(loc="lower left")
    figure.savefig(path)
