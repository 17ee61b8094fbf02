# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from pose_kd_ros.recordings.bags import BagError, full_type, open_bag, read_stamp, with_stamp

pytest.importorskip("rosbags")
from standalone.bag_writer import IMAGE_TOPIC, INFO_TOPIC, START, Pinhole, write_bag

CAMERA = Pinhole(32, 24, 30.0, 31.0, 15.5, 11.5)


@pytest.fixture
def recording(tmp_path):
    write_bag(tmp_path / "bag", (np.full((24, 32), value, np.uint8) for value in range(5)), CAMERA, rate=10)
    return tmp_path / "bag"


def test_a_folder_and_its_bare_file_hold_the_same_messages(recording):
    with open_bag(recording) as bag:
        whole = list(bag.messages())
        assert bag.topics[IMAGE_TOPIC].count == 5
        assert dict(bag.topics[IMAGE_TOPIC].qos)["reliability"] == "reliable"
    with open_bag(recording / "bag.mcap") as bag:
        assert list(bag.messages()) == whole
    (recording / "metadata.yaml").unlink()
    with open_bag(recording) as bag:
        assert list(bag.messages()) == whole
        assert (bag.start, bag.end) == (START, START + 400_000_000 + 1)


def test_a_folder_may_be_called_as_a_recording_of_ros_1(recording):
    with open_bag(recording.rename(recording.with_suffix(".bag"))) as bag:
        assert bag.topics[IMAGE_TOPIC].count == 5


def test_messages_can_be_read_again_and_of_one_topic_only(recording):
    with open_bag(recording) as bag:
        assert [m.topic for m in bag.messages([INFO_TOPIC])] == [INFO_TOPIC] * 5
        assert len(list(bag.messages([INFO_TOPIC]))) == 5


def test_a_topic_that_was_not_recorded_is_named_with_those_that_were(recording):
    with open_bag(recording) as bag, pytest.raises(BagError, match=r"no topic /nothing; it has .*image_raw"):
        bag.pick(["/nothing"])


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda path: None, "No recording at"),
        (lambda path: path.mkdir(), "wanted a metadata.yaml"),
        (lambda path: path.with_suffix(".mcap").write_bytes(b"no mcap at all"), "No recording at"),
    ],
)
def test_what_is_no_recording_is_refused(tmp_path, make, words):
    make(tmp_path / "x")
    with pytest.raises(BagError, match=words), open_bag(tmp_path / "x"):
        pass


def test_a_broken_file_is_refused_by_name(tmp_path):
    (tmp_path / "x.mcap").write_bytes(b"no mcap at all")
    with pytest.raises(BagError, match=r"x\.mcap cannot be read"), open_bag(tmp_path / "x.mcap"):
        pass


def test_stamps_are_read_and_written_in_place(recording):
    with open_bag(recording) as bag:
        data = next(bag.messages([IMAGE_TOPIC])).data
    assert read_stamp(data) == START
    moved = with_stamp(data, 12_000_000_034)
    assert read_stamp(moved) == 12_000_000_034
    assert moved[12:] == data[12:] and moved[:4] == data[:4]


def test_a_big_endian_stamp():
    assert read_stamp(bytes([0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 3])) == 2_000_000_003


def test_old_type_names_become_full_ones(shared_data):
    assert full_type("std_msgs/String") == "std_msgs/msg/String"
    with open_bag(shared_data / "bags" / "klintan_sample.db3") as bag:
        assert bag.topics["/image"].type == "sensor_msgs/msg/Image"
        assert len(list(bag.messages())) == 5


def test_a_real_recording_with_metadata(shared_data):
    with open_bag(shared_data / "bags" / "ubiquity_aruco_ros2") as bag:
        stamps = [message.stamp for message in bag.messages()]
    assert len(stamps) == 16 and stamps == sorted(stamps)
