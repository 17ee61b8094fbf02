# SPDX-License-Identifier: Apache-2.0
"""Checks that configurations of networks share."""

from __future__ import annotations


def check_named(config, field: str, names: tuple[str, ...]) -> None:
    """Raise ValueError unless the field is one of ``names``."""
    found = getattr(config, field)
    if found not in names:
        raise ValueError(
            f"{type(config).__name__}.{field}: wanted one of {', '.join(names)}, found {found!r}"
        )


def check_least(config, **least: int) -> None:
    """Raise ValueError for a field below its minimum."""
    for field, wanted in least.items():
        found = getattr(config, field)
        if found < wanted:
            raise ValueError(f"{type(config).__name__}.{field}: wanted >= {wanted}, found {found}")
