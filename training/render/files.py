"""Small text files that are whole or not there at all, and JSON whose faults name the file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_whole(path: Path, text: str) -> None:
    """Write ``text`` to a temporary name and rename it: whoever reads ``path`` finds all of it, or what was
    there before."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises ValueError that names the file where it is broken or holds something
    else."""
    try:
        found = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid JSON ({error}); delete it if it is of no use") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: wants a JSON object, found {type(found).__name__}")
    return found
