"""The estimator that a bundle's family asks for."""

from __future__ import annotations

from ..bundle.manifest import BundleError
from ..bundle.store import Bundle
from .estimator import Estimator
from .network import Network
from .regional import RegionalEstimator


def make_estimator(
    bundle: Bundle, network: Network, locator: Estimator | None = None, **options
) -> Estimator | RegionalEstimator:
    """Return the estimator of a bundle; options as its own. Raises BundleError for a locator where the bundle
    searches by itself."""
    if bundle.manifest.family == "dense":
        return RegionalEstimator(bundle, network, locator, **options)
    if locator is not None:
        raise BundleError(f"{bundle.folder}: of the keypoint family, which needs no locator")
    return Estimator(bundle, network, **options)
