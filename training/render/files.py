"""Small text files that are whole or not there at all, and JSON whose faults name the file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_whole(path: Path, text: str) -> None:
    """Write ``text`` to a temporary name and rename it, so that readers of ``path`` never see a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; raise ValueError, naming the file, if it is broken or holds something else."""
    try:
        found = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: wanted JSON, found {error}; delete the file if it is of no use") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: wanted a JSON object, found {type(found).__name__}")
    return found
