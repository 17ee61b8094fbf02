"""From parameters to an estimator that is ready: bundles opened, golden samples replayed, networks warm."""

from __future__ import annotations

import numpy as np

from ..bundle.store import Bundle, open_bundle
from ..pipeline.estimator import Estimator
from ..pipeline.families import make_estimator
from ..pipeline.network import Network, load_network
from ..pipeline.people import PeopleEstimator
from ..pipeline.regional import RegionalEstimator
from .parameters import PROVIDERS, Settings, UnusableParameter, bundle_folder


def load_estimator(settings: Settings) -> Estimator | RegionalEstimator | PeopleEstimator:
    """Return the estimator of ``bundle``, with that of ``locator`` if one is given, objects scaled.

    Raises UnusableParameter or BundleError, also where a bundle looks where it is told and nothing would tell
    it.
    """
    bundle, network = _loaded("bundle", settings)
    name, family, people = bundle.manifest.name, bundle.manifest.family, bundle.manifest.people
    locator = make_estimator(*_loaded("locator", settings)) if settings.locator else None
    if locator is not None and not isinstance(locator, Estimator):
        found = locator.bundle.manifest.family
        raise UnusableParameter(f"locator: {settings.locator!r} is of the {found} family, wanted keypoint")
    estimator = make_estimator(bundle, network, locator)
    if people is not None and not settings.use_regions:
        raise UnusableParameter(
            f"use_regions: bundle {name!r} shows people, in the boxes that it is given: set use_regions"
        )
    if bundle.manifest.looks_where_told and locator is None and not settings.use_regions:
        raise UnusableParameter(
            f"locator: bundle {name!r} is of the {family} family, which looks where it is told: "
            "give a keypoint bundle as locator, or set use_regions"
        )
    if people is not None:
        return estimator
    return estimator.scaled(dict.fromkeys(estimator.objects, settings.object_scale))


def _loaded(parameter: str, settings: Settings) -> tuple[Bundle, Network]:
    bundle = open_bundle(bundle_folder(getattr(settings, parameter), parameter))
    network = load_network(bundle, settings.threads, (PROVIDERS[settings.provider],))
    crop = bundle.manifest.input
    network(np.zeros((1, 3, crop.size, crop.width), np.float32))  # the first run of a size is slower by far
    return bundle, network
