# SPDX-License-Identifier: Apache-2.0
"""Recordings that are whole, but not as rosbags wants them: channels of other encodings, an MCAP file without
message indexes, a SQLite file whose last messages are still in its write-ahead log."""

from __future__ import annotations

import contextlib
import importlib
import re
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

CDR = "cdr"
ENCODINGS = re.compile(r"serialization_format:\s*['\"]?(\w+)")
LOG = "-wal"


def accept_other_channels() -> None:
    """Make rosbags read MCAP files that also hold JSON, protobuf or other schemas.

    For one schema that it does not know, or that is no text, it refuses the whole file.
    """
    storage: Any = importlib.import_module("rosbags.rosbag2.storage_mcap")
    strict = storage.get_msgdef
    if getattr(strict, "tolerant", False):
        return

    def get_msgdef(schema: Any) -> Any:
        try:
            return strict(schema)
        except KeyError:
            return strict(None)

    storage.get_msgdef = get_msgdef
    storage.get_msgdef.tolerant = True
    storage.read_string = lambda stream: storage.read_bytes(stream).decode(errors="replace")


def is_readable(connection) -> bool:
    """Whether a connection's messages are ROS messages in CDR."""
    encoding = getattr(connection.ext, "serialization_format", CDR)
    return encoding == CDR and connection.msgtype.count("/") in (1, 2)


def names_other_encodings(metadata: Path) -> bool:
    """Whether a metadata.yaml names an encoding for which rosbags refuses the folder."""
    return bool(set(ENCODINGS.findall(metadata.read_text(encoding="utf-8", errors="replace"))) - {CDR})


def complete_index(reader) -> None:
    """Let a reader look into the chunks for which its MCAP file has no message index: it passes over them."""
    storage = getattr(reader, "storage", None)
    for part in getattr(storage, "storages", [storage]):
        for chunk in getattr(part, "chunks", ()):
            if not chunk.message_index_offsets:
                chunk.channel_count.update(dict.fromkeys(part.channels, 1))


def with_log(path: Path, stack: contextlib.ExitStack) -> Path:
    """Return a SQLite file or a folder with the messages of its write-ahead logs.

    That is a copy, which goes with the stack, where there is a log: a recording may lie on a read-only disk.
    """
    logs = [log for log in _logs(path) if _database(log).is_file() and log.is_file() and log.stat().st_size]
    if not logs:
        return path
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pose_kd_ros-")))
    databases = [_database(log) for log in logs]
    for file in (*databases, *logs):
        shutil.copyfile(file, folder / file.name)
    for database in databases:
        with contextlib.closing(sqlite3.connect(folder / database.name)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    if not path.is_dir():
        return folder / path.name
    for file in path.iterdir():
        if not (folder / file.name).exists() and not file.name.endswith((LOG, "-shm")):
            (folder / file.name).symlink_to(file.resolve())
    return folder


def _database(log: Path) -> Path:
    return Path(str(log)[: -len(LOG)])


def _logs(path: Path) -> list[Path]:
    return sorted(path.glob(f"*.db3{LOG}")) if path.is_dir() else [Path(f"{path}{LOG}")]
