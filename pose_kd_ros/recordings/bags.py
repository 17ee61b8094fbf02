# SPDX-License-Identifier: Apache-2.0
"""Recordings without ROS: rosbag2 folders, single .mcap and .db3 files, with or without metadata.yaml, plain
or compressed by file or message.

Messages stay as the CDR bytes that were recorded; only the current message (sqlite3) or
chunk (MCAP) is held in memory.
"""

from __future__ import annotations

import contextlib
import struct
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import zstd
from .repair import accept_other_channels, complete_index, is_readable, names_other_encodings, with_log
from .salvage import BrokenDatabase, CutPath

SUFFIXES = (".mcap", ".db3")
STORAGE = (*SUFFIXES, *(f"{suffix}{zstd.SUFFIX}" for suffix in SUFFIXES))


class BagError(ValueError):
    """A recording cannot be read; the text names it, what was found and what was wanted."""


@dataclass(frozen=True)
class Topic:
    """One recorded topic.

    type: such as sensor_msgs/msg/Image. qos: {policy: name}, empty if none was recorded.
    """

    name: str
    type: str
    count: int
    qos: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class RawMessage:
    """One recorded message.

    stamp: nanoseconds at which it was recorded. data: CDR bytes, 4 bytes of header first.
    """

    topic: str
    type: str
    stamp: int
    data: bytes


class Bag:
    """An open recording; use `open_bag`. start, end: nanoseconds of the first and after the last message.

    faults: what is wrong with it, where damaged recordings were asked for.
    """

    def __init__(self, path: Path, readers: list, faults: Sequence[str] = ()):
        self.path, self.faults = path, tuple(faults)
        self._readers = [reader for reader in readers if reader.message_count]
        for reader in self._readers:
            complete_index(reader)
        if not self._readers:
            raise BagError("; ".join([f"{path} holds no messages", *self.faults]))
        self.start = min(reader.start_time for reader in self._readers)
        self.end = max(reader.end_time for reader in self._readers)
        self.topics = merge_topics(self._readers)

    def pick(self, names: Sequence[str] = ()) -> list[Topic]:
        """Return the topics of these names, or all of them for none.

        Raises:
            BagError: one was not recorded.
        """
        unknown = sorted(set(names) - set(self.topics))
        if unknown:
            raise BagError(f"{self.path} has no topic {', '.join(unknown)}; it has {', '.join(self.topics)}")
        return [self.topics[name] for name in names or self.topics]

    def messages(self, topics: Sequence[str] = ()) -> Iterator[RawMessage]:
        """Yield messages in recorded order, of the named topics or, for none, of all.

        Raises as `pick` does, and BagError where the recording is damaged, after what stands before.
        """
        names = {topic.name for topic in self.pick(topics)}
        for reader in sorted(self._readers, key=lambda one: one.start_time):
            readable = [connection for connection in reader.connections if is_readable(connection)]
            wanted = [connection for connection in readable if connection.topic in names]
            for connection, stamp, data in self._read(reader, wanted) if wanted else ():
                yield RawMessage(connection.topic, full_type(connection.msgtype), stamp, data)

    def readable(self, topics: Sequence[str]) -> Iterator[RawMessage]:
        """As `messages`, but stop without an error where the recording is damaged."""
        with contextlib.suppress(BagError):
            yield from self.messages(topics)

    def _read(self, reader, connections: list) -> Iterator[tuple]:
        """Storage plugins and decompressors share no base class of errors but Exception."""
        try:
            for connection, stamp, data in reader.messages(connections):
                yield connection, stamp, zstd.plain(bytes(data))
        except Exception as error:
            raise BagError(f"{self.path.name} is damaged: {error}") from error


@contextlib.contextmanager
def open_bag(path: Path | str, salvage: bool = False) -> Iterator[Bag]:
    """Open a recording for the length of a with block.

    salvage: also a damaged one, as far as it can be read; its `faults` say what is wrong.

    Raises:
        BagError: there is nothing at path, or not a rosbag2 recording, or an empty one.
        ImportError: rosbags is not installed.
    """
    path = Path(path)
    try:
        from rosbags.rosbag2 import Reader
    except ImportError as error:
        raise ImportError("Reading recordings needs rosbags: pip install rosbags") from error
    accept_other_channels()
    parts, faults = storage_parts(path), []
    with contextlib.ExitStack() as stack:
        try:
            readers = [stack.enter_context(Reader(unpacked(part, stack))) for part in parts]
        except Exception as error:  # of the storage, its compression or metadata.yaml: no common base class
            faults = [f"{path.name} is damaged: {error}"]
            files = storage_parts(path, metadata=False) if salvage else []
            readers = [reader for file in files if (reader := rescued(file, stack)) is not None]
            if not readers:
                raise BagError(f"{path} cannot be read: {error}") from error
        yield Bag(path, readers, faults)


def rescued(path: Path, stack: contextlib.ExitStack):
    """Return a reader of one storage file, whole or damaged; None where nothing of it can be read."""
    from rosbags.rosbag2 import Reader

    path = unpacked(path, stack, partly=True)
    damaged = BrokenDatabase if path.suffix == ".db3" else lambda path: Reader(CutPath(path))
    for make in (Reader, damaged):
        with contextlib.suppress(Exception):
            return stack.enter_context(make(path))
    return None


def unpacked(path: Path, stack: contextlib.ExitStack, partly: bool = False) -> Path:
    """Return the storage file or folder itself, or a compressed one's content, or a copy with its write-ahead
    log, in a folder that goes with the stack."""
    if path.suffix != zstd.SUFFIX:
        return with_log(path, stack)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pose_kd_ros-")))
    return zstd.unpack(path, folder, partly)


def storage_parts(path: Path, metadata: bool = True) -> list[Path]:
    """Return what to open: a folder with metadata.yaml, else its storage files, else the file itself.

    metadata: False passes over a metadata.yaml.
    """
    if not path.exists():
        raise BagError(f"No recording at {path}")
    if path.suffix == ".bag" and path.is_file():
        advice = f"rosbags-convert --src {path.name} --dst {path.stem}"
        raise BagError(f"{path}: wanted a rosbag2 recording, found one of ROS 1; convert it: {advice}")
    if path.is_file() and path.name.endswith(STORAGE):
        return [path]
    listed = path / "metadata.yaml"
    if metadata and listed.is_file() and not names_other_encodings(listed):
        return [path]
    found = {part.name: part for part in path.glob("*") if part.name.endswith(STORAGE)}
    # of a file and its compressed twin, which a recorder leaves that dies at that, the file
    twins = {f"{name}{zstd.SUFFIX}" for name in found}
    parts = [part for name, part in sorted(found.items()) if name not in twins]
    if not parts:
        raise BagError(f"{path}: wanted a metadata.yaml or files {' '.join(STORAGE)}, found neither")
    return parts


def merge_topics(readers: list) -> dict[str, Topic]:
    """Return {name: Topic} over all files of a recording, sorted by name."""
    found: dict[str, Topic] = {}
    for connection in (c for reader in readers for c in reader.connections if is_readable(c)):
        count = connection.msgcount + (found[connection.topic].count if connection.topic in found else 0)
        offered = connection.ext.offered_qos_profiles
        qos = qos_names(offered[0]) if offered else ()
        found[connection.topic] = Topic(connection.topic, full_type(connection.msgtype), count, qos)
    return dict(sorted(found.items()))


def qos_names(profile) -> tuple[tuple[str, str], ...]:
    """Return the policies of a recorded profile that decide who can listen, as (policy, lower-case name)."""
    policies = {
        name: getattr(profile, name).name.lower() for name in ("history", "reliability", "durability")
    }
    return tuple({**policies, "depth": str(profile.depth)}.items())


def full_type(name: str) -> str:
    """Return pkg/msg/Name; old recordings write pkg/Name."""
    package, *_, message = name.split("/")
    return f"{package}/msg/{message}"


def read_stamp(data: bytes) -> int:
    """Return the header stamp, in nanoseconds, of a CDR message whose first field is a std_msgs/Header.

    Convention: byte 1 of the CDR header says little endian (1) or big endian (0); the stamp comes right after
    these 4 bytes, seconds (int32) then nanoseconds (uint32).
    """
    seconds, nanoseconds = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4)
    return seconds * 1_000_000_000 + nanoseconds


def with_stamp(data: bytes, stamp: int) -> bytes:
    """Return a copy of a CDR message (see `read_stamp`) whose header carries this stamp, in nanoseconds."""
    copy = bytearray(data)
    struct.pack_into("<iI" if data[1] & 1 else ">iI", copy, 4, *divmod(stamp, 1_000_000_000))
    return bytes(copy)
