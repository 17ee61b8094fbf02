"""summary.json: a run's figures, and where they came from."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import cv2
import numpy as np

from ..provenance import write_whole

SCHEMA = 1
SUMMARY = "summary.json"


def write_summary(out: Path, **content) -> dict:
    """Write OUT/summary.json whole or not at all; NaN becomes null. Returns what was written."""
    document = {"schema": SCHEMA, **plain(content)}
    write_whole(out / SUMMARY, json.dumps(document, indent=1) + "\n")
    return document


def environment() -> dict:
    """What a run's times and last bits depend on."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "onnxruntime": _version("onnxruntime"),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": _commit(),
    }


def code() -> str:
    """What computes: the source tree's commit, else the installed package's version."""
    commit = _commit()
    return commit if commit != "unknown" else f"pose_kd_ros {_version('pose_kd_ros')}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _commit() -> str:
    """Of the source tree; an installed package has none."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"


def plain(value):
    """The value as JSON has it: built-in types; NaN and infinity, which it has not, as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
