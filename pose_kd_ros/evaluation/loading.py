# SPDX-License-Identifier: Apache-2.0
"""From a bundle's name to the pipeline that the node runs with its default parameters."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import cv2

from ..bundle.manifest import BundleError
from ..bundle.store import MANIFEST, Bundle, sha256
from ..core.mesh import Mesh
from ..core.track import Tracker
from ..pipeline.estimator import Estimator
from ..pipeline.families import open_estimator
from ..pipeline.follow import ObjectFollower
from ..pipeline.people import PeopleEstimator
from ..pipeline.refine import KINDS, Refiner, make_refiner
from .progress import size_of

MeshOf = Callable[[int], Mesh | None]


def no_mesh(object_id: int) -> None:
    """No object has a mesh but the bundle's own."""


def add_refine_option(parser: argparse.ArgumentParser) -> None:
    """``--refine``, as the node's parameter."""
    text = "edges: move poses onto the image's edges, of objects with a mesh; auto: where the bundle has one"
    parser.add_argument("--refine", choices=KINDS, default="auto", help=text)


def say_refined(what: str, refiner: Refiner | None) -> None:
    """Print how many poses were refined in this run, and why others were not."""
    if refiner is not None:
        counts = ", ".join(f"{n} {name}" for name, n in sorted(refiner.counts.items()))
        print(f"refined on {what}: poses: {counts or 'none'}", file=sys.stderr)


def load_follower(
    name: str, scale: float = 1.0, refine: str = "auto", mesh_of: MeshOf = no_mesh
) -> ObjectFollower:
    """Return the pipeline of a bundle that looks for objects by itself, or where its locator
    tells it to; as ``load_estimator``."""
    estimator = load_estimator(name, scale, refine, mesh_of)
    if estimator.bundle.manifest.needs_regions:
        raise BundleError(
            f"bundle {name}: wanted one that searches, found one of the {estimator.bundle.manifest.family} "
            "family, which needs regions: export it with --locator"
        )
    return ObjectFollower(estimator, Tracker(estimator.objects))


def load_estimator(
    name: str, scale: float = 1.0, refine: str = "auto", mesh_of: MeshOf = no_mesh
) -> Estimator:
    """Return the estimator of a bundle, given by folder or name. scale: the real objects'
    size over its own. refine: one of ``refine.KINDS``. mesh_of: the mesh, by its id, of an object that has
    none in the bundle, or None.

    OpenCV runs on one thread; the network on as many as the node's, which share out its outputs and not their
    sums, so that each bit is the same. Raises BundleError.
    """
    cv2.setNumThreads(1)
    estimator = open_estimator(name, refine="none")
    if isinstance(estimator, PeopleEstimator):
        raise BundleError(f"bundle {name}: wanted one of objects, found one for people, who have no poses")
    estimator.refiner = load_refiner(refine, estimator.bundle, mesh_of)
    return estimator.scaled(dict.fromkeys(estimator.objects, scale))


def load_refiner(kind: str, bundle: Bundle, mesh_of: MeshOf = no_mesh) -> Refiner | None:
    """As ``refine.make_refiner``, with the meshes of ``mesh_of`` where the bundle has none."""
    if kind in ("none", "auto"):
        return make_refiner(kind, bundle)
    missing = [model.id for model in bundle.objects if bundle.mesh(model.id) is None]
    return make_refiner(kind, bundle, {i: mesh for i in missing if (mesh := mesh_of(i)) is not None})


def bundle_facts(bundle: Bundle) -> dict:
    """What a summary says of a bundle; its hash is the manifest's, which holds those of all other files.

    Parameters and size are the locator's, too; GFLOP are of a crop, for which it does not run.
    """
    manifest, network = bundle.manifest, bundle.manifest.network
    located = bundle.locator.manifest.network.parameters if bundle.locator else 0
    size = size_of(bundle.folder)
    return {
        "name": manifest.name,
        "family": manifest.family,
        "parameters": network.parameters + located,
        "gflop": network.gflop,
        "size_mb": round(size / 1e6, 3),
        "sha256": sha256(bundle.folder / MANIFEST),
    }
