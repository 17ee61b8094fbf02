"""JSON whose faults name the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


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
