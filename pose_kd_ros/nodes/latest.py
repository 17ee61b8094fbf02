# SPDX-License-Identifier: Apache-2.0
"""The newest frame and the thread that works on it.

Nothing queues up, every drop is counted, no death is silent.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from typing import Any


class Latest:
    """Holds one item. Putting a second one in before the first is taken drops the first and counts it."""

    def __init__(self):
        self._condition = threading.Condition()
        self._item: Any = None
        self.dropped = 0

    def put(self, item: Any) -> None:
        with self._condition:
            self.dropped += self._item is not None
            self._item = item
            self._condition.notify()

    def take(self, timeout_s: float) -> Any:
        """Return the item and empty the slot, or None if nothing came within ``timeout_s``."""
        with self._condition:
            self._condition.wait_for(lambda: self._item is not None, timeout_s)
            item, self._item = self._item, None
            return item


class Worker:
    """A thread that calls ``work`` with every item it gets from ``latest``, until it
    is stopped or ``work`` raises.

    error: the reason it died of, with the traceback; None while it lives or after a
    stop. The owner must look at it.
    """

    def __init__(self, latest: Latest, work: Callable[[Any], None]):
        self.error: str | None = None
        self._latest, self._work = latest, work
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pose_worker", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> bool:
        """Ask the thread to end and wait for it; False if it did not within ``timeout_s``."""
        self._stop.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                item = self._latest.take(timeout_s=0.1)
                if item is not None:
                    self._work(item)
        except BaseException as error:
            self.error = f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
