# SPDX-License-Identifier: Apache-2.0
"""Zstandard, with which rosbag2 compresses whole files or single messages; rosbags brings a module for it."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path

MAGIC = b"\x28\xb5\x2f\xfd"  # no CDR message begins so: its first byte is 0
SUFFIX = ".zstd"
MODULES = ("compression.zstd", "backports.zstd", "zstandard")  # Python 3.14's own; of newer and older rosbags


def module():
    """The first of MODULES that is there. Raises ImportError."""
    for name in MODULES:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise ImportError("Reading compressed recordings needs Zstandard: pip install backports.zstd")


def plain(message: bytes) -> bytes:
    """The message, decompressed if it is compressed: without metadata.yaml nothing else says so."""
    return module().decompress(message) if message[:4] == MAGIC else message


def unpack(path: Path, folder: Path, partly: bool = False) -> Path:
    """Decompress a file into ``folder``; returns the new one. partly: of a damaged one what can be had.

    Raises ImportError, EOFError for a file that is cut, the module's ZstdError for one that is damaged.
    """
    zstd, target = module(), folder / path.name[: -len(SUFFIX)]
    try:
        with zstd.open(path, "rb") as source, open(target, "wb") as file:
            shutil.copyfileobj(source, file)
    except (EOFError, zstd.ZstdError):
        if not partly:
            raise
    return target
