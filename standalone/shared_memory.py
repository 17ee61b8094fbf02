# SPDX-License-Identifier: Apache-2.0
"""Removes the shared memory that killed nodes leave behind: enough segments of 64 MB fill the memory."""

import re
from pathlib import Path

SHM = Path("/dev/shm")
SEGMENT = re.compile(r"fastdds_[0-9a-z]+")


def sweep() -> None:
    """Removes Fast DDS's segments that no process has mapped, each with its lock (`..._el`) and semaphore
    (`sem...._mutex`). Locks and semaphores are not mapped by name; they are in use if their segment is."""
    live = {name for maps in Path("/proc").glob("[0-9]*/maps") for name in SEGMENT.findall(text(maps))}
    for path in SHM.glob("*fastdds_*"):
        segment = SEGMENT.search(path.name)
        if segment is not None and segment[0] not in live:
            path.unlink(missing_ok=True)


def text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # the process has ended, or is another user's
        return ""
