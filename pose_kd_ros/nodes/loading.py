# SPDX-License-Identifier: Apache-2.0
"""From parameters to an estimator that is ready: bundle opened, golden samples replayed, networks warm."""

from __future__ import annotations

from ..bundle.find import find_bundle
from ..bundle.store import open_bundle
from ..pipeline.estimator import Estimator
from ..pipeline.families import open_estimator
from ..pipeline.people import PeopleEstimator
from ..pipeline.refine import make_refiner
from .parameters import PROVIDERS, Settings, UnusableParameter, scales_by_id


def load_estimator(settings: Settings) -> Estimator | PeopleEstimator:
    """Return the estimator of ``bundle``, with that of its locator, if it has one, objects scaled.

    Raises UnusableParameter or BundleError, also for a bundle that needs
    regions or a locator and has neither.
    """
    bundle = open_bundle(find_bundle(settings.bundle))
    name, family, people = bundle.manifest.name, bundle.manifest.family, bundle.manifest.people
    if people is not None and not settings.use_regions:
        raise UnusableParameter(
            f"use_regions: bundle {name!r} shows people, in the boxes that it is given: set use_regions"
        )
    if people is not None and settings.output_frame:
        raise UnusableParameter(
            f"output_frame: wanted none for bundle {name!r}, whose keypoints are pixels, "
            f"found {settings.output_frame!r}"
        )
    if people is not None and settings.use_depth:
        raise UnusableParameter(
            f"use_depth: wanted false for bundle {name!r}, which has no poses, found true"
        )
    if bundle.manifest.needs_regions and not settings.use_regions:
        raise UnusableParameter(
            f"bundle: {name!r} is of the {family} family, which needs regions, and has no locator: "
            "export it with --locator, or set use_regions"
        )
    estimator = open_estimator(bundle, settings.threads, (PROVIDERS[settings.provider],), settings.refine)
    if isinstance(estimator, PeopleEstimator):
        return estimator
    estimator.depth_refiner = make_refiner("depth" if settings.use_depth else "none", bundle)
    names = {key: model.name for key, model in estimator.objects.items()}
    return estimator.scaled(scales_by_id(settings, names))
