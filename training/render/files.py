# SPDX-License-Identifier: Apache-2.0
"""Read JSON files; errors name the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; raise ValueError, naming the file, if it is broken or holds something else."""
    try:
        found = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: wanted JSON, found {error}; delete the file if it is of no use") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: wanted a JSON object, found {type(found).__name__}")
    return found
