# SPDX-License-Identifier: Apache-2.0
"""Recordings as other recorders write them: one alien part does not spoil the rest, and nothing is lost."""

import shutil
import sqlite3
import struct

import numpy as np
import pytest

pytest.importorskip("rosbags")
from recordings import disc_messages, quaternion, tf_at, write
from rosbags.rosbag2 import StoragePlugin

from pose_kd_ros.recordings.bags import BagError, open_bag
from pose_kd_ros.recordings.cdr import typestore
from pose_kd_ros.recordings.images import BagImages
from pose_kd_ros.recordings.transforms import Transforms

MAGIC = b"\x89MCAP0\r\n"
COUNT = 6


def text(data):
    data = data if isinstance(data, bytes) else data.encode()
    return struct.pack("<I", len(data)) + data


def record(kind, body):
    return bytes([kind]) + struct.pack("<Q", len(body)) + body


def schema(number, name, encoding, data):
    return record(0x03, struct.pack("<H", number) + text(name) + text(encoding) + text(data))


def channel(number, schema_number, topic, encoding):
    return record(0x04, struct.pack("<HH", number, schema_number) + text(topic) + text(encoding) + text(b""))


def message(number, stamp, data):
    return record(0x05, struct.pack("<HIQQ", number, 0, stamp, stamp) + data)


ALIENS = {
    "json": (schema(90, "foxglove.Log", "jsonschema", "{}"), channel(90, 90, "/log", "json")),
    "protobuf": (
        schema(90, "foxglove.Log", "protobuf", b"\x0a\xff\x80"),
        channel(90, 90, "/log", "protobuf"),
    ),
    "omgidl": (schema(90, "my::Kind", "omgidl", "struct Kind {};"), channel(90, 90, "/log", "cdr")),
    "flatbuffer": (schema(90, "Kind", "flatbuffer", b"\x00\x01"), channel(90, 90, "/log", "flatbuffer")),
    "schemaless": (b"", channel(90, 0, "/log", "json")),
}


def mcap(path, alien=(), indexed=True, index=True):
    """Discs as another recorder would write them: one chunk, with or without summary and message index."""
    kinds, body, stamps, counts = {}, b"".join(alien), [], {}
    schemas = []
    for topic, kind, stamp, made in disc_messages(COUNT):
        if topic not in kinds:
            kinds[topic] = len(kinds) + 1
            definition = typestore().generate_msgdef(kind)[0]
            schemas += [schema(kinds[topic], kind, "ros2msg", definition)]
            schemas += [channel(kinds[topic], kinds[topic], topic, "cdr")]
            body += b"".join(schemas[-2:])
        body += message(kinds[topic], stamp, bytes(typestore().serialize_cdr(made, kind)))
        stamps.append(stamp)
        counts[kinds[topic]] = counts.get(kinds[topic], 0) + 1
    if alien:
        body += message(90, stamps[-1], b"{}")
        counts[90] = 1
    times = struct.pack("<QQ", min(stamps), max(stamps))
    chunk = record(
        0x06, times + struct.pack("<QI", len(body), 0) + text("") + struct.pack("<Q", len(body)) + body
    )
    data = MAGIC + record(0x01, text("ros2") + text("test"))
    at = len(data)
    data += chunk
    offsets, places = b"", b""
    for number in counts if index else ():
        offsets += struct.pack("<HQ", number, len(data) + len(places))
        places += record(0x07, struct.pack("<HI", number, 16 * counts[number]) + bytes(16 * counts[number]))
    data += places + record(0x0F, struct.pack("<I", 0))
    start = len(data) if indexed else 0
    if indexed:
        data += b"".join([*alien, *schemas])
        sizes = struct.pack("<QQ", len(body), len(body))
        index_of = text(offsets) + struct.pack("<Q", len(places)) + text("") + sizes
        data += record(0x08, times + struct.pack("<QQ", at, len(chunk)) + index_of)
        each = b"".join(struct.pack("<HQ", *pair) for pair in counts.items())
        numbers = struct.pack("<QHIIIIQQ", sum(counts.values()), 3, 3, 0, 0, 1, min(stamps), max(stamps))
        data += record(0x0B, numbers + text(each))
    data += record(0x02, struct.pack("<QQI", start, 0, 0)) + MAGIC
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("alien", ALIENS)
@pytest.mark.parametrize("indexed", [True, False])
def test_an_alien_channel_does_not_spoil_an_mcap_file(tmp_path, alien, indexed):
    with open_bag(mcap(tmp_path / "a.mcap", ALIENS[alien], indexed)) as bag:
        assert "/log" not in bag.topics
        assert len(list(BagImages(bag).frames())) == COUNT
        assert len(list(bag.messages())) == sum(topic.count for topic in bag.topics.values())


def test_a_folder_that_lists_an_alien_channel_is_read(tmp_path):
    bag = write(tmp_path / "bag", disc_messages(COUNT))
    listed = (bag / "metadata.yaml").read_text()
    first = listed.index("serialization_format: cdr")
    changed = (
        listed[:first] + "serialization_format: json" + listed[first + len("serialization_format: cdr") :]
    )
    (bag / "metadata.yaml").write_text(changed)
    with open_bag(bag) as opened:
        assert len(list(BagImages(opened).frames())) == COUNT


def test_chunks_without_message_index_are_read(tmp_path):
    with open_bag(mcap(tmp_path / "a.mcap", index=False)) as bag:
        images = BagImages(bag)
        assert len(list(images.frames())) == COUNT and not images.faults


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("whole_folder", [False, True])
def test_messages_in_a_write_ahead_log_are_read(tmp_path, whole_folder, read_only):
    bag = write(tmp_path / "bag", disc_messages(COUNT), StoragePlugin.SQLITE3)
    file = next(bag.glob("*.db3"))
    database = sqlite3.connect(file)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA wal_autocheckpoint=0")
    rows = database.execute("SELECT topic_id, timestamp, data FROM messages").fetchall()
    database.execute("DELETE FROM messages WHERE id > 2")
    database.commit()
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.executemany("INSERT INTO messages (topic_id, timestamp, data) VALUES (?, ?, ?)", rows[2:])
    database.commit()
    copy = tmp_path / "copy"
    shutil.copytree(bag, copy)  # as a recorder leaves it that was killed
    database.close()
    if read_only:
        for path in (*copy.iterdir(), copy):
            path.chmod(0o555 if path.is_dir() else 0o444)
    before = sorted(path.name for path in copy.iterdir())
    with open_bag(copy if whole_folder else copy / file.name) as opened:
        assert len(list(BagImages(opened).frames())) == COUNT
    assert sorted(path.name for path in copy.iterdir()) == before
    copy.chmod(0o755)


def test_a_write_ahead_log_without_its_database_is_passed_over(tmp_path):
    bag = write(tmp_path / "bag", disc_messages(COUNT), StoragePlugin.SQLITE3)
    (bag / "bag_1.db3-wal").write_bytes(b"what a killed recorder left")
    with open_bag(bag) as opened:
        assert len(list(BagImages(opened).frames())) == COUNT


def test_a_transform_that_no_robot_would_use_is_left_out_and_counted(tmp_path):
    bad = []
    for stamp, values in (
        (1, (0.0, 0.0, 0.0, 0.0)),
        (2, (np.nan, 0.0, 0.0, 1.0)),
        (3, (np.inf, 0.0, 0.0, 1.0)),
    ):
        made = tf_at(stamp, "world", "alien", np.eye(4))
        made[3].transforms[0].transform.rotation = type(quaternion(np.eye(4)))(*values)
        bad.append(made)
    shifted = tf_at(4, "world", "alien", np.eye(4))
    shifted[3].transforms[0].transform.translation.x = np.nan
    good = tf_at(5, "world", "ball", np.eye(4))
    with open_bag(write(tmp_path / "bag", [*bad, shifted, good])) as bag:
        transforms = Transforms.read(bag)
    assert transforms.children == ["ball"] and sum(transforms.faults.values()) == 4
    assert all("/tf: 'alien' in 'world' is left out: " in fault for fault in transforms.faults)


def test_a_recording_of_ros_1_is_named_with_the_remedy(tmp_path):
    (tmp_path / "old.bag").write_bytes(b"#ROSBAG V2.0\n")
    with pytest.raises(BagError, match=r"found one of ROS 1; convert it: rosbags-convert --src old\.bag"):
        with open_bag(tmp_path / "old.bag"):
            pass
