"""The estimator that a bundle's family asks for."""

from __future__ import annotations

from ..bundle.manifest import BundleError
from ..bundle.store import Bundle
from .estimator import Estimator
from .network import Network
from .people import PeopleEstimator
from .regional import RegionalEstimator


def make_estimator(
    bundle: Bundle, network: Network, locator: Estimator | None = None, **options
) -> Estimator | RegionalEstimator | PeopleEstimator:
    """Return the estimator of a bundle; options as its own. Raises BundleError for a locator where the bundle
    searches by itself, or where it shows people."""
    manifest = bundle.manifest
    if manifest.family != "keypoint" and manifest.people is None:
        return RegionalEstimator(bundle, network, locator, **options)
    if locator is not None:
        what = "the keypoint family" if manifest.people is None else "people, in boxes that it is given"
        raise BundleError(f"{bundle.folder}: of {what}, which needs no locator")
    return (Estimator if manifest.people is None else PeopleEstimator)(bundle, network, **options)
