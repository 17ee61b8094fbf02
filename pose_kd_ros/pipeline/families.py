# SPDX-License-Identifier: Apache-2.0
"""From a bundle to the estimator of its family."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np

from ..bundle.find import find_bundle
from ..bundle.manifest import BundleError
from ..bundle.store import Bundle, open_bundle
from .estimator import Estimator
from .keypoint import KeypointEstimator
from .network import Network, load_network
from .people import PeopleEstimator
from .refine import make_refiner
from .regional import Locator, RegionalEstimator


def open_estimator(
    bundle: Bundle | Path | str,
    threads: int = 0,
    providers: tuple[str, ...] = ("CPUExecutionProvider",),
    refine: str = "auto",
    **options: Any,
) -> Estimator | PeopleEstimator:
    """Load a bundle's network and its locator's, replay their golden samples, and return the estimator.

    bundle: opened, a folder, or the name of an installed one. threads, providers: of both networks, as in
    ``load_network``. refine: what poses are refined on, as in ``refine.make_refiner``. options: as in
    ``make_estimator``. Raises BundleError as these do.
    """
    if not isinstance(bundle, Bundle):
        bundle = open_bundle(find_bundle(str(bundle)))
    locator = None
    if bundle.locator is not None:  # of the keypoint family, as the manifest's schema asks
        locator = cast(Locator, open_estimator(bundle.locator, threads, providers, refine="none"))
    network = load_network(bundle, threads, providers)
    crop = bundle.manifest.input
    network(np.zeros((1, 3, crop.size, crop.width), np.float32))  # the first run of a size is slower by far
    estimator = make_estimator(bundle, network, locator, **options)
    if not isinstance(estimator, PeopleEstimator):
        estimator.refiner = make_refiner(refine, bundle)
    return estimator


def make_estimator(
    bundle: Bundle, network: Network, locator: Locator | None = None, **options: Any
) -> Estimator | PeopleEstimator:
    """Return the estimator of a bundle; options as its own. Raises BundleError for a locator where the bundle
    searches by itself, or where it shows people."""
    manifest = bundle.manifest
    if manifest.family != "keypoint" and manifest.people is None:
        return RegionalEstimator(bundle, network, locator, **options)
    if locator is not None:
        what = "the keypoint family" if manifest.people is None else "people, in boxes that it is given"
        raise BundleError(f"{bundle.folder}: of {what}, which needs no locator")
    return (KeypointEstimator if manifest.people is None else PeopleEstimator)(bundle, network, **options)
