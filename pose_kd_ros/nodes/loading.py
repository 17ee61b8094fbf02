"""From parameters to an estimator that is ready: bundles opened, golden samples replayed, networks warm."""

from __future__ import annotations

import numpy as np

from ..bundle.store import Bundle, open_bundle
from ..pipeline.estimator import Estimator
from ..pipeline.families import make_estimator
from ..pipeline.network import Network, load_network
from ..pipeline.regional import RegionalEstimator
from .parameters import PROVIDERS, Settings, UnusableParameter, bundle_folder


def load_estimator(settings: Settings) -> Estimator | RegionalEstimator:
    """Return the estimator of ``bundle``, with that of ``locator`` if one is given, objects scaled.

    Raises UnusableParameter or BundleError, also where nothing would tell a dense bundle where to look.
    """
    bundle, network = _loaded("bundle", settings)
    locator = make_estimator(*_loaded("locator", settings)) if settings.locator else None
    if locator is not None and not isinstance(locator, Estimator):
        raise UnusableParameter(f"locator: {settings.locator!r} is of the dense family, wanted keypoint")
    estimator = make_estimator(bundle, network, locator)
    if isinstance(estimator, RegionalEstimator) and locator is None and not settings.use_regions:
        raise UnusableParameter(
            f"locator: bundle {bundle.manifest.name!r} is of the dense family, which looks where it is told: "
            "give a keypoint bundle as locator, or set use_regions"
        )
    return estimator.scaled(dict.fromkeys(estimator.objects, settings.object_scale))


def _loaded(parameter: str, settings: Settings) -> tuple[Bundle, Network]:
    bundle = open_bundle(bundle_folder(getattr(settings, parameter), parameter))
    network = load_network(bundle, settings.threads, (PROVIDERS[settings.provider],))
    size = bundle.manifest.input.size
    network(np.zeros((1, 3, size, size), np.float32))  # the first run of a size is slower by far
    return bundle, network
