# SPDX-License-Identifier: Apache-2.0
"""What results came from (code, machine, versions), and how they reach the disk."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

UNKNOWN = "unknown"
ROOT = Path(__file__).resolve().parents[1]
CODE = ("pose_kd_ros", "training")  # folders of the source tree whose changes "+changes" reports


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write a file under a temporary name, then rename it: readers find all or the old file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def commit(mark_changes: bool = True) -> str:
    """Return the source tree's commit, 12 digits; "unknown" where an installed package has none.

    mark_changes: append "+changes" if tracked files of CODE differ from the commit.
    """
    head = _git("rev-parse", "--short=12", "HEAD")
    changed = mark_changes and head and _git("status", "--porcelain", "-uno", "--", *CODE)
    return (head or UNKNOWN) + ("+changes" if changed else "")


def code() -> str:
    """Return the code's identity: the source tree's commit, else the installed package's version."""
    head = commit(mark_changes=False)
    return head if head != UNKNOWN else f"pose_kd_ros {_version('pose_kd_ros')}"


def processor() -> str:
    """Return the machine's architecture and number of cores."""
    return f"{platform.machine()} CPU, {os.cpu_count()} cores"


def environment() -> dict:
    """Return what a run's times and last bits depend on."""
    import cv2
    import numpy

    return {
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "opencv": cv2.__version__,
        "onnxruntime": _version("onnxruntime"),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(mark_changes=False),
    }


def _git(*words: str) -> str:
    """Return what git prints in the source tree; nothing where it fails."""
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return UNKNOWN


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or UNKNOWN
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), UNKNOWN)
