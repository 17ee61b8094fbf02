# SPDX-License-Identifier: Apache-2.0
"""Removes the shared memory that killed nodes leave behind: enough segments of 64 MB fill the memory."""

import re
from pathlib import Path

SHM = Path("/dev/shm")
SEGMENT = re.compile(r"fastdds_[0-9a-z]+")


def sweep() -> None:
    """Removes Fast DDS's segments that no process has mapped, each with its lock (`..._el`) and semaphore
    (`sem...._mutex`). Neither of these is mapped by its name: whether it is in use, its segment tells."""
    live = {name for maps in Path("/proc").glob("[0-9]*/maps") for name in SEGMENT.findall(text(maps))}
    for path in SHM.glob("*fastdds_*"):
        if SEGMENT.search(path.name)[0] not in live:
            path.unlink(missing_ok=True)


def text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # ended meanwhile, or another user's
        return ""
