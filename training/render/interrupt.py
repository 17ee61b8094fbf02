# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C as a flag that long work checks between two parts, so that nothing is left half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def ctrl_c_between_steps() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether Ctrl-C was pressed. Outside the main thread it always returns False.

    Python may raise KeyboardInterrupt inside a finaliser, which discards it; the work would then go on.
    """
    pressed = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, lambda *_: pressed.append(True))
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)
