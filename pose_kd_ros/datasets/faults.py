# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a data set: refused at once, or skipped, but named and counted."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Literal

OnFault = Literal["refuse", "skip"]
_WHOLE = ("scene", "shard")  # kinds of faults that are about more than one image
_log = logging.getLogger(__name__)


class DatasetError(ValueError):
    """A BOP file is missing, unreadable, or has a field that is missing or wrong.

    kind: what is at fault, for counting: json, picture, depth, mask, scene or shard.
    """

    def __init__(self, message: str, kind: str = "json") -> None:
        super().__init__(message)
        self.kind = kind


class Faults:
    """The faults met so far. ``refuse`` raises the first; ``skip`` keeps all, each logged as a warning once.

    A process has its own: what a loader's worker meets is in the worker's log, and ``news`` to hand on.
    """

    def __init__(self, on_fault: OnFault = "refuse") -> None:
        if on_fault not in ("refuse", "skip"):
            raise ValueError(f"faults: wanted refuse or skip, found {on_fault!r}")
        self.on_fault, self._handed_on = on_fault, 0
        self.kinds: dict[str, str] = {}

    def add(self, error: DatasetError) -> None:
        """Raise ``error``, or record it: the caller then goes on without that image."""
        if self.on_fault == "refuse":
            raise error
        if str(error) not in self.kinds:
            self.kinds[str(error)] = error.kind
            _log.warning("skipped (%s, fault %d): %s", error.kind, len(self.kinds), error)

    def news(self) -> list[tuple[str, str]]:
        """Messages and kinds of those skipped since the last call."""
        found = list(self.kinds.items())[self._handed_on :]
        self._handed_on = len(self.kinds)
        return found

    def hear(self, news: list[tuple[str, str]]) -> None:
        """Take note of what another process has skipped and logged."""
        for message, kind in news:
            self.kinds.setdefault(message, kind)

    @property
    def images(self) -> int:
        """How many single images were skipped; the images of a whole scene are not counted."""
        return sum(kind not in _WHOLE for kind in self.kinds.values())

    def summary(self, total: int) -> str:
        """One line, such as "skipped 3 of 1214 images: 1 mask, 2 picture"; total: images, skipped or not."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(self.kinds.values()).items()))
        return f"skipped {self.images} of {total} images: {kinds or 'none'}"
