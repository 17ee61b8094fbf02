"""Write a run's last checkpoint as a bundle: network files, golden sample, manifest."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import numpy as np

from pose_kd_ros.bundle.manifest import SCHEMA, DecodeSpec, GoldenSpec, Manifest, NetworkSpec, surface_file
from pose_kd_ros.bundle.store import Bundle, golden_input, write_bundle
from pose_kd_ros.pipeline.network import ObjectNetworks

from ..config import RunConfig
from ..data.surface import load_surface
from .manifest import input_spec, object_specs, people_spec, training_spec
from .network import outputs_of, write_network

NETWORK = "network.onnx"
GOLDEN = GoldenSpec("golden.npz", seed=0, height=256, width=256, tolerance=0.05)
SMALL_GOLDEN = dataclasses.replace(GOLDEN, height=128, width=128)  # of a bundle with many networks


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
            training=training_spec(config, object_runs, made.step),
            files=dict.fromkeys(files, ""),
        )
        return write_bundle(folder, manifest, files, locator)


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


def surfaces(config: RunConfig, folder: Path) -> dict[str, Path]:
    """Write each object's surface by its codes to ``folder``; the files by their names in the bundle."""
    models, files = config.data / "models", {}
    for model in config.load_objects():
        path = folder / surface_file(model.id)
        np.savez_compressed(path, points=load_surface(models, model.id).points)
        files[path.name] = path
    return files


def with_figures(bundle: Bundle, decode: DecodeSpec, metrics: dict[str, float]) -> Bundle:
    """The bundle in its place anew, with what was chosen and measured on it, and its locator."""
    training = dataclasses.replace(bundle.manifest.training, metrics=metrics)
    manifest = dataclasses.replace(bundle.manifest, decode=decode, training=training)
    files = {name: bundle.folder / name for name in manifest.files}
    return write_bundle(bundle.folder, manifest, files, bundle.locator)
