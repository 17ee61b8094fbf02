# SPDX-License-Identifier: Apache-2.0
"""Write a run's last checkpoint as a bundle: network files, golden sample, manifest."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from pose_kd_ros.bundle.manifest import SCHEMA, DecodeSpec, GoldenSpec, Manifest, NetworkSpec
from pose_kd_ros.bundle.store import Bundle, golden_input, write_bundle
from pose_kd_ros.pipeline.network import ObjectNetworks

from ..config import RunConfig
from ..families import family_of
from .manifest import input_spec, object_specs, people_spec, training_spec
from .network import write_network

NETWORK = "network.onnx"
GOLDEN = GoldenSpec("golden.npz", seed=0, height=256, width=256, tolerance=0.05)
SMALL_GOLDEN = dataclasses.replace(GOLDEN, height=128, width=128)  # for a bundle with many networks


def write_run(
    config: RunConfig,
    folder: Path,
    names: dict[int, str],
    search_px: int,
    decode: DecodeSpec,
    locator: Bundle | None = None,
    object_runs: tuple[RunConfig, ...] = (),
) -> Bundle:
    """Write the run's last checkpoint as a bundle at ``folder``.

    locator: bundle that finds the objects; it is put into this one. object_runs: surface runs of single
    objects of this run; their networks measure these objects, and this run's network searches. Raises
    ValueError without a checkpoint, if ONNX deviates from torch, and for runs that do not fit each other.
    """
    family, object_files = family_of(config), files_by_object(config, object_runs)
    sample = SMALL_GOLDEN if object_runs else GOLDEN
    with tempfile.TemporaryDirectory() as work:
        place = Path(work)
        main = write_network(config, place / NETWORK)
        others = {i: write_network(run, place / object_files[i]) for i, run in zip(object_files, object_runs)}
        engine = ObjectNetworks(main.engine, {int(i): other.engine for i, other in others.items()})
        outputs: dict[str, Any] = engine.replay(golden_input(sample.seed, sample.height, sample.width))
        np.savez_compressed(place / sample.file, **outputs)
        files = {name: place / name for name in (NETWORK, sample.file, *object_files.values())}
        files |= family.bundle_files(config, place)
        networks = [main, *others.values()]
        manifest = Manifest(
            schema=SCHEMA,
            name=Path(folder).name,
            family=family.name,
            input=input_spec(config, search_px),
            network=NetworkSpec(
                file=NETWORK,
                outputs=family.output_names(config.network),
                strides=list(config.network.strides),
                parameters=sum(each.parameters for each in networks),
                gflop=round(networks[-1].gflop, 4),
                object_files=object_files,
            ),
            objects=[] if config.people else object_specs(config, names),
            people=people_spec(config),
            decode=decode,
            golden=sample,
            training=training_spec(config, object_runs, main.step),
            files=dict.fromkeys(files, ""),
        )
        return write_bundle(folder, manifest, files, locator)


def files_by_object(config: RunConfig, object_runs: tuple[RunConfig, ...]) -> dict[str, str]:
    """Return the file names, by object id, of the networks of ``object_runs``.

    Raises ValueError unless each is a surface run of one object of the run that searches, and of another
    object than the others.
    """
    wanted = [model.id for model in config.load_objects()] if object_runs else []
    files: dict[str, str] = {}
    for run in object_runs:
        ids = [model.id for model in run.load_objects()]
        families = {config.network.family, run.network.family}
        if families != {"surface"} or len(ids) != 1 or ids[0] not in wanted or str(ids[0]) in files:
            raise ValueError(
                f"{run.folder}: wanted a surface run of one of the objects {wanted} that no other run has, "
                f"found {run.network.family}, objects {ids}"
            )
        if (run.crops.size, run.crops.margin) != (config.crops.size, config.crops.margin):
            crops = f"crops.size {config.crops.size}, crops.margin {config.crops.margin} of {config.folder}"
            raise ValueError(f"{run.folder}: wanted {crops}, found {run.crops.size}, {run.crops.margin}")
        files[str(ids[0])] = f"object_{ids[0]:06d}.onnx"
    return files


def with_figures(bundle: Bundle, decode: DecodeSpec, metrics: dict[str, float]) -> Bundle:
    """Replace the bundle by one with these thresholds and figures."""
    training = dataclasses.replace(bundle.manifest.training, metrics=metrics)
    manifest = dataclasses.replace(bundle.manifest, decode=decode, training=training)
    files = {name: bundle.folder / name for name in manifest.files}
    return write_bundle(bundle.folder, manifest, files, bundle.locator)
