# SPDX-License-Identifier: Apache-2.0
"""Where bundles lie: in the source tree, and in each prefix that this package is installed to."""

from __future__ import annotations

import os
from pathlib import Path

from .manifest import BundleError
from .store import MANIFEST

SHARE = "share/pose_kd_ros"


def find_bundle(name: str) -> Path:
    """Return a bundle's folder, given as such or by the name of an installed one.

    The source tree comes first, then the prefixes of AMENT_PREFIX_PATH in their order. Raises BundleError
    that lists the installed ones.
    """
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        return folder
    installed = _installed()
    if name not in installed:
        wanted = f"wanted a folder or one of the installed {', '.join(sorted(installed)) or '(none)'}"
        raise BundleError(f"bundle: {wanted}, found {name!r}")
    return installed[name]


def _installed() -> dict[str, Path]:
    """The folders of installed bundles by their names."""
    prefixes = [prefix for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(":") if prefix]
    roots = [Path(__file__).resolve().parents[2], *(Path(prefix, SHARE) for prefix in prefixes)]
    found: dict[str, Path] = {}
    for root in roots:
        for manifest in (root / "bundles").glob(f"*/{MANIFEST}"):
            found.setdefault(manifest.parent.name, manifest.parent)
    return found
