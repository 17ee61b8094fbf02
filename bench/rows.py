"""The keys that every row of docs/results shares."""

from __future__ import annotations

import datetime
import platform
import subprocess
from pathlib import Path


def commit() -> str:
    """The commit that is checked out, 12 digits."""
    return subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"],
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
        cwd=Path(__file__).parent,
    ).stdout.strip()


def hardware() -> str:
    return f"{platform.machine()} CPU, 2 cores"


def common(
    name: str,
    method: str,
    family: str,
    dataset: str,
    split: str,
    *,
    network: str = "",
    seed: int = 0,
    steps: int = 0,
) -> dict:
    """A row's name, what was run, and when and where; "measured"."""
    return {
        "name": name,
        "method": method,
        "network": network,
        "family": family,
        "dataset": dataset,
        "split": split,
        "seed": seed,
        "steps": steps,
        "status": "measured",
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "hardware": hardware(),
    }
