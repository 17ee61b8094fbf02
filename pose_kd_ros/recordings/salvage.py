# SPDX-License-Identifier: Apache-2.0
"""What can still be read of a damaged recording: an MCAP file without its end, a broken SQLite file.

Nothing is written: the MCAP file is read as if it ended after its last whole record, the SQLite file row by
row, without those that are broken.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

MAGIC = b"\x89MCAP0\r\n"
FOOTER = b"\x02" + (20).to_bytes(8, "little") + bytes(20) + MAGIC  # of a file without a summary
LAST_KINDS = (0x02, 0x0F)  # footer and end of data: no messages follow
PATIENCE = 10_000  # rows in a row that cannot be read: nothing will come any more


class CutFile(io.RawIOBase):
    """The first ``end`` bytes of an MCAP file and a footer, as one readable file."""

    def __init__(self, path: Path, end: int):
        self._file, self._end, self._at = open(path, "rb"), end, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._end + len(FOOTER)}[whence]
        self._at = base + offset
        return self._at

    def readinto(self, buffer) -> int:
        data = FOOTER[self._at - self._end :][: len(buffer)]
        if self._at < self._end:
            self._file.seek(self._at)
            data = self._file.read(min(len(buffer), self._end - self._at))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


class CutPath(type(Path())):  # type: ignore[misc]  # Path's own class differs by platform
    """The path of an MCAP file that opens without what follows its last whole record."""

    def open(self, *args, **kwargs) -> io.BufferedReader:
        return io.BufferedReader(CutFile(Path(self), whole_records(Path(self))))


def whole_records(path: Path) -> int:
    """Return where the last whole record of an MCAP file's data ends, in bytes from its start."""
    size, at = path.stat().st_size, len(MAGIC)
    with open(path, "rb") as file:
        while at + 9 <= size:
            file.seek(at)
            kind, length = file.read(1)[0], int.from_bytes(file.read(8), "little")
            if kind in LAST_KINDS or at + 9 + length > size:
                break
            at += 9 + length
    return at


class BrokenDatabase:
    """Messages of a SQLite recording in the order of their rows, as a rosbags reader gives them, without
    those that cannot be read. Raises sqlite3.DatabaseError where not even the topics can be."""

    def __init__(self, path: Path):
        with contextlib.closing(self._open(path)) as database:
            rows = database.execute("SELECT id, name, type FROM topics").fetchall()
        self.path, self.stamps, self.counts = path, [], dict.fromkeys((row[0] for row in rows), 0)
        for topic, stamp, _ in self._rows():
            self.stamps.append(stamp)
            self.counts[topic] = self.counts.get(topic, 0) + 1
        plain = SimpleNamespace(offered_qos_profiles=[])
        self.connections = [
            SimpleNamespace(id=key, topic=name, msgtype=kind, msgcount=self.counts[key], ext=plain)
            for key, name, kind in rows
        ]
        self.message_count = len(self.stamps)
        self.start_time = min(self.stamps, default=0)
        self.end_time = max(self.stamps, default=0) + 1

    def __enter__(self) -> BrokenDatabase:
        return self

    def __exit__(self, *error) -> None:
        """Nothing stays open between two readings."""

    @staticmethod
    def _open(path: Path) -> sqlite3.Connection:
        database = sqlite3.connect(f"{path.resolve().as_uri()}?immutable=1", uri=True)
        database.execute("PRAGMA writable_schema=ON")  # else a file shorter than it says is refused
        return database

    def _rows(self) -> Iterator[tuple[int, int, bytes]]:
        """The rows that are whole: where a file ends within a page, SQLite takes the
        rest of its last row for zeros."""
        last = None
        for row in self._readable():
            if last is not None:
                yield last
            last = row
        if last is not None and not self._ends_within_a_page():
            yield last

    def _ends_within_a_page(self) -> bool:
        with open(self.path, "rb") as file:
            size = int.from_bytes(file.read(18)[16:], "big")
        return self.path.stat().st_size % (size if size > 1 else 65536) != 0  # 1 stands for 65536

    def _readable(self) -> Iterator[tuple[int, int, bytes]]:
        """One row at a time: a query over many ends at the first broken page. Recorders count rows from 1."""
        query, broken = "SELECT topic_id, timestamp, data FROM messages WHERE id = ?", 0
        with contextlib.closing(self._open(self.path)) as database:
            for key in itertools.count(1):
                try:
                    row = database.execute(query, (key,)).fetchone()
                except sqlite3.DatabaseError:
                    broken += 1
                    if broken == PATIENCE:
                        return
                    continue
                if row is None:
                    return
                broken = 0
                yield row

    def messages(self, connections) -> Iterator[tuple]:
        """Yield (connection, stamp, CDR bytes) of these connections."""
        wanted = {connection.id: connection for connection in connections}
        for topic, stamp, data in self._rows():
            if topic in wanted:
                yield wanted[topic], stamp, data
