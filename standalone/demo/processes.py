# SPDX-License-Identifier: Apache-2.0
"""The demo's child processes: each has a log file, and is ended in all cases."""

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

END_SECONDS = 8.0


class Failed(RuntimeError):
    """A part of the demo did not start or died; the text holds the end of its log."""


@contextlib.contextmanager
def running(command: list[str], log: Path) -> Iterator[subprocess.Popen]:
    """Runs a command during a with block, with its output in `log`; then ends it."""
    with log.open("w") as stream:
        # In a new session: Ctrl-C on the terminal reaches only the demo, which ends its processes in order.
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen) -> None:
    """Ends a process: SIGINT, and after END_SECONDS SIGKILL."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(END_SECONDS)


def tail(log: Path, lines: int = 8) -> str:
    """Returns the last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
