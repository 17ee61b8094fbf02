# SPDX-License-Identifier: Apache-2.0
"""When to try again after a failure: soon at first, then less and less often."""

from __future__ import annotations

FIRST_S, LONGEST_S = 1.0, 60.0


class Recovery:
    """The time of the next try. Seconds are those of time.monotonic."""

    def __init__(self):
        self._delay, self._at = FIRST_S, float("inf")

    def plan(self, now: float) -> float:
        """Set the next try, twice as far away as the last; returns the seconds until then."""
        delay = self._delay
        self._at, self._delay = now + delay, min(2 * delay, LONGEST_S)
        return delay

    def due(self, now: float) -> bool:
        """Whether the time of a planned try has come."""
        return now >= self._at

    def cancel(self) -> None:
        """Drop the planned try: it has been made, or somebody else has taken over."""
        self._at = float("inf")

    def succeeded(self) -> None:
        """Begin with short delays again."""
        self._delay = FIRST_S
