# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: one file, written to a temporary name and renamed, read without pickle's code execution."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import torch


def save(path: Path, state: dict) -> None:
    """Write ``state`` (tensors, numbers, strings, nested dicts) to ``path``; a crash leaves the old file
    intact."""
    _remove_left_over(path)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        torch.save(state, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _remove_left_over(path: Path) -> None:
    """Remove the temporary files of processes that were killed while they wrote."""
    for found in path.parent.glob(f"{path.stem}.*.tmp"):
        number = found.name[len(path.stem) + 1 : -len(".tmp")]
        if number.isdecimal() and not _is_alive(int(number)):
            found.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # another user's process; not a process number
        return True
    return True


def trained_weights(state: dict) -> dict[str, torch.Tensor]:
    """Return a checkpoint's weights: their moving average, if the run keeps one."""
    return state.get("average", state["network"])


def load(path: Path) -> dict:
    """Read what ``save`` wrote, onto the CPU; raises ValueError naming the file if it is not a checkpoint."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, KeyError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path}: wanted a checkpoint, found an unreadable file ({error})") from error
