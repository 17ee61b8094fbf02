# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

pytest.importorskip("rosbags")
from recordings import CAMERA, FRAME, START, compressed_at, disc, disc_messages, image_at, info_at, write
from rosbags.rosbag2 import CompressionMode, StoragePlugin

from pose_kd_ros.recordings.bags import BagError, open_bag
from pose_kd_ros.recordings.images import BagImages, load_camera
from standalone.bag_writer import Pinhole

CALIBRATION = """
image_width: {width}
image_height: {height}
camera_name: camera
camera_matrix: {{rows: 3, cols: 3, data: [500.0, 0.0, 320.0, 0.0, 501.0, 240.0, 0.0, 0.0, 1.0]}}
distortion_model: plumb_bob
distortion_coefficients: {{rows: 1, cols: 5, data: [0.1, 0.0, 0.0, 0.0, 0.0]}}
"""


def read(path, *options, **named):
    with open_bag(path, salvage=True) as bag:
        images = BagImages(bag, *options, **named)
        return list(images.frames()), images


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_pictures_come_in_order_with_the_camera_of_their_frame(tmp_path, storage):
    frames, images = read(write(tmp_path / "bag", disc_messages(5), storage))
    assert [frame.frame for frame in frames] == list(range(5)) and frames[0].stamp_ns == START
    assert frames[0].camera.K[0, 0] == 300  # the info came with the second picture
    np.testing.assert_array_equal(frames[3].image[..., ::-1], disc(128, 126, 33.5))
    assert not images.faults and not images.damaged


STORED = [
    (storage, mode)
    for storage in (StoragePlugin.MCAP, StoragePlugin.SQLITE3)
    for mode in (CompressionMode.FILE, CompressionMode.MESSAGE)
] + [(StoragePlugin.MCAP, CompressionMode.STORAGE)]


@pytest.mark.parametrize(("storage", "mode"), STORED)
def test_compressed_recordings_are_read_with_and_without_metadata(tmp_path, storage, mode):
    plain, _ = read(write(tmp_path / "plain", disc_messages(5), storage))
    path = write(tmp_path / "bag", disc_messages(5), storage, mode)
    file = next(one for one in path.iterdir() if one.name != "metadata.yaml")
    with_metadata = read(path)
    (path / "metadata.yaml").unlink()
    for frames, images in (with_metadata, read(path), read(file)):
        assert not images.faults and [frame.frame for frame in frames] == list(range(5))
        np.testing.assert_array_equal(frames[4].image, plain[4].image)


@pytest.mark.parametrize("metadata", [True, False])
def test_a_truncated_compressed_file_is_read_up_to_the_cut(tmp_path, metadata):
    path = write(tmp_path / "bag", disc_messages(10), compression=CompressionMode.FILE)
    file = path / "bag.mcap.zstd"
    file.write_bytes(file.read_bytes()[:-300])
    if not metadata:
        (path / "metadata.yaml").unlink()
    frames, images = read(path)
    assert 1 <= len(frames) < 10 and images.damaged
    ((fault, count),) = images.faults.items()
    assert fault.startswith("bag is damaged") and count == 1


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_a_file_that_was_not_yet_compressed_as_a_whole_is_read_once(tmp_path, storage):
    """A recorder that dies while it compresses leaves both, and no metadata."""
    path = write(tmp_path / "bag", disc_messages(5), storage)
    file = next(one for one in path.iterdir() if one.name != "metadata.yaml")
    packed = write(tmp_path / "packed", disc_messages(5), storage, CompressionMode.FILE)
    compressed = next(one for one in packed.iterdir() if one.name != "metadata.yaml").read_bytes()
    (path / "metadata.yaml").unlink()
    for size in (len(compressed), len(compressed) // 2):
        file.with_name(f"{file.name}.zstd").write_bytes(compressed[:size])
        frames, images = read(path)
        assert [frame.frame for frame in frames] == list(range(5)) and not images.faults


def test_the_latest_info_of_frame_and_size_holds_whatever_its_stamp(tmp_path):
    other = Pinhole(CAMERA.width, CAMERA.height, 400.0, 400.0, 160.0, 120.0)
    picture = disc(100, 100, 20)
    messages = [
        info_at("/info", 1),
        image_at("/image", 10, picture),
        info_at("/info", 20, frame="another"),
        info_at("/info", 25, camera=Pinhole(64, 48, 90.0, 90.0, 32.0, 24.0)),
        image_at("/image", 30, picture),
        info_at("/info", 40, camera=other),
        image_at("/image", 900, picture),
    ]
    frames, _ = read(write(tmp_path / "bag", messages))
    assert [frame.camera.K[0, 0] for frame in frames] == [300, 300, 400]


def test_two_cameras_are_listed_and_one_can_be_chosen(tmp_path):
    picture = disc(100, 100, 20)
    messages = [
        info_at("/left/info", 1, "left"),
        info_at("/right/info", 2, "right", Pinhole(320, 240, 250.0, 250.0, 160.0, 120.0)),
        image_at("/left/image", 3, picture, "left"),
        image_at("/right/image", 4, picture, "right"),
    ]
    path = write(tmp_path / "bag", messages)
    with pytest.raises(BagError, match="2 cameras: choose one with --camera: /left/image, /right/image"):
        read(path)
    frames, _ = read(path, "/right/image")
    assert [(frame.frame_id, frame.camera.K[0, 0]) for frame in frames] == [("right", 250)]


def test_a_machine_without_zstandard_is_told_what_to_install(tmp_path, monkeypatch):
    path = write(tmp_path / "bag", disc_messages(3), compression=CompressionMode.FILE)
    (path / "metadata.yaml").unlink()
    monkeypatch.setattr("pose_kd_ros.recordings.zstd.MODULES", ())
    with pytest.raises(ImportError, match="pip install"), open_bag(path, salvage=True):
        pass


def test_depth_and_a_compressed_twin_are_no_further_cameras(tmp_path):
    picture = disc(100, 100, 20)
    depth = image_at("/depth", 2, picture[..., 0])
    depth[3].encoding, depth[3].step = "16UC1", 320
    messages = [
        info_at("/info", 1),
        depth,
        image_at("/image", 3, picture),
        compressed_at("/image/compressed", 4, picture),
    ]
    path = write(tmp_path / "bag", messages)
    raw, images = read(path)
    assert images.topic == "/image"
    packed, _ = read(path, "/image/compressed")
    np.testing.assert_array_equal(raw[0].image, packed[0].image)


def test_without_camera_info_the_option_is_named_and_its_file_is_used(tmp_path):
    path = write(tmp_path / "bag", disc_messages(2, infos=None))
    with pytest.raises(BagError, match=r"no CameraInfo: give .* --camera-info FILE"):
        read(path)
    for width, usable in ((320, 2), (640, 0)):
        (tmp_path / "camera.yaml").write_text(CALIBRATION.format(width=width, height=240))
        frames, images = read(path, camera=load_camera(tmp_path / "camera.yaml"))
        assert len(frames) == usable
    assert images.faults == {"--camera-info: wanted 640x240, found a 320x240 image": 2}


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("image_width", "width", "found no field 'image_width'"),
        ("plumb_bob", "thin_prism", "wanted one of .*, found 'thin_prism'"),
        ("camera_name: camera", "camera_name: [", "no camera calibration"),
    ],
)
def test_a_poor_calibration_file_is_refused_by_name(tmp_path, old, new, text):
    path = tmp_path / "camera.yaml"
    path.write_text(CALIBRATION.format(width=640, height=480).replace(old, new))
    with pytest.raises(BagError, match=f"camera.yaml: .*{text}"):
        load_camera(path)


def test_pictures_of_no_known_camera_are_counted(tmp_path):
    messages = [info_at("/info", 1, "elsewhere"), *disc_messages(3, infos=None)]
    frames, images = read(write(tmp_path / "bag", messages))
    ((fault, count),) = images.faults.items()
    assert not frames and count == 3 and f"{FRAME!r} and 320x240 (recorded: 'elsewhere' 320x240)" in fault


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_truncated_file_is_read_up_to_the_cut(tmp_path, share):
    path = write(tmp_path / "bag", disc_messages(10)) / "bag.mcap"
    whole, _ = read(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    frames, images = read(path)
    assert len(whole) > len(frames) >= 10 * share - 5 and frames and images.damaged  # chunks of a megabyte
    np.testing.assert_array_equal(frames[-1].image, whole[len(frames) - 1].image)
    assert list(images.faults) == ["bag.mcap is damaged: File end magic is invalid."]


def test_a_truncated_file_beside_its_metadata(tmp_path):
    path = write(tmp_path / "bag", disc_messages(10))
    (path / "bag.mcap").write_bytes((path / "bag.mcap").read_bytes()[:-1000])
    frames, images = read(path)
    assert len(frames) >= 5 and images.damaged
    with pytest.raises(BagError, match="cannot be read"), open_bag(path):
        pass


def test_a_database_is_read_up_to_its_broken_page(tmp_path):
    path = next(write(tmp_path / "bag", disc_messages(10), StoragePlugin.SQLITE3).glob("*.db3"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 8192] = bytes(8192)
    path.write_bytes(data)
    frames, images = read(path)
    assert [frame.frame for frame in frames] == list(range(len(frames)))
    assert 1 <= len(frames) < 10 and images.damaged and "is damaged" in next(iter(images.faults))


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_cut_database_is_read_up_to_the_cut(tmp_path, share):
    path = next(write(tmp_path / "bag", disc_messages(10), StoragePlugin.SQLITE3).glob("*.db3"))
    whole, _ = read(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    frames, images = read(path)
    assert len(whole) > len(frames) >= 10 * share - 2 and images.damaged
    by_stamp = {frame.stamp_ns: frame.image for frame in whole}
    assert all(np.array_equal(frame.image, by_stamp[frame.stamp_ns]) for frame in frames)


def test_messages_that_are_gone_without_a_word_are_a_fault(tmp_path):
    """A record whose kind nobody knows any more is passed over, as MCAP wants it."""
    path = write(tmp_path / "bag", disc_messages(10))
    with open_bag(path) as bag:
        size = len(next(bag.messages(["/camera/image_raw"])).data)
    data = bytearray((path / "bag.mcap").read_bytes())
    data[data.index(b"\x05" + (22 + size).to_bytes(8, "little"))] = 0x7F
    (path / "bag.mcap").write_bytes(data)
    frames, images = read(path)
    assert len(frames) == 9 and images.damaged
    lost = "10 messages of /camera/image_raw were recorded, 9 could be read"
    assert images.faults == {f"bag is damaged: {lost}": 1}


def test_broken_rows_are_passed_over_where_the_database_does_not_open(shared_data, tmp_path):
    data = bytearray((shared_data / "bags" / "klintan_sample.db3").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 200_000] = bytes(200_000)
    (tmp_path / "bag.db3").write_bytes(data)
    with open_bag(tmp_path / "bag.db3", salvage=True) as bag:
        assert sorted(message.topic for message in bag.messages()) == ["/fix", "/imu", "/text"]
        assert len(bag.faults) == 1


def test_a_real_recording_without_camera_info_or_metadata(shared_data, tmp_path):
    path = shared_data / "bags" / "klintan_sample.db3"
    with pytest.raises(BagError, match="no CameraInfo"):
        read(path)
    with open_bag(path) as bag:
        size = bag_picture_size(bag)
    (tmp_path / "camera.yaml").write_text(CALIBRATION.format(width=size[0], height=size[1]))
    frames, _ = read(path, camera=load_camera(tmp_path / "camera.yaml"))
    assert len(frames) == 1 and frames[0].image.shape == (size[1], size[0], 3)


def bag_picture_size(bag):
    from pose_kd_ros.recordings.cdr import decode

    message = decode(next(bag.messages(["/image"])))
    return message.width, message.height


def test_a_real_recording_whose_infos_have_other_stamps(shared_data):
    frames, images = read(shared_data / "bags" / "ubiquity_aruco_ros2")
    assert len(frames) == 1 and frames[0].camera.K[0, 0] > 100 and not images.faults
