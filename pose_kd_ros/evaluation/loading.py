# SPDX-License-Identifier: Apache-2.0
"""From a bundle's name to the pipeline that the node runs with its default parameters."""

from __future__ import annotations

import cv2

from ..bundle.manifest import BundleError
from ..bundle.store import MANIFEST, Bundle, sha256
from ..core.track import Tracker
from ..pipeline.estimator import Estimator
from ..pipeline.families import open_estimator
from ..pipeline.follow import ObjectFollower
from ..pipeline.people import PeopleEstimator
from .progress import size_of


def load_follower(name: str, scale: float = 1.0) -> ObjectFollower:
    """Return the pipeline of a bundle that looks for objects by itself, or where its locator
    tells it to; as ``load_estimator``."""
    estimator = load_estimator(name, scale)
    if estimator.bundle.manifest.needs_regions:
        raise BundleError(
            f"bundle {name}: wanted one that searches, found one of the {estimator.bundle.manifest.family} "
            "family, which needs regions: export it with --locator"
        )
    return ObjectFollower(estimator, Tracker(estimator.objects))


def load_estimator(name: str, scale: float = 1.0) -> Estimator:
    """Return the estimator of a bundle, given by folder or name. scale: the real objects' size over its own.

    OpenCV runs on one thread; the network on as many as the node's, which share out its outputs and not their
    sums, so that each bit is the same. Raises BundleError.
    """
    cv2.setNumThreads(1)
    estimator = open_estimator(name)
    if isinstance(estimator, PeopleEstimator):
        raise BundleError(f"bundle {name}: wanted one of objects, found one for people, who have no poses")
    return estimator.scaled(dict.fromkeys(estimator.objects, scale))


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
