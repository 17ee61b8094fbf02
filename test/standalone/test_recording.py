# SPDX-License-Identifier: Apache-2.0
import hashlib
import os

import cv2
import numpy as np
import pytest

pytest.importorskip("rosbags")
from pose_kd_ros.recordings.bags import open_bag
from standalone import recording
from standalone.bag_writer import IMAGE_TOPIC, INFO_TOPIC, START, Pinhole, write_bag
from standalone.synthetic import draw_frames, pose_at, project

SMALL = Pinhole(64, 48, 55.0, 54.0, 31.0, 24.0)
COUNT = 5


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A tiny tree laid out as the real package, with its count and checksum; returns what 'fetches' it."""
    frames = tmp_path / "tree" / recording.FRAMES
    frames.mkdir(parents=True)
    digest = hashlib.sha256()
    for index in range(COUNT):
        path = frames / f"image{index:04d}.pgm"
        cv2.imwrite(str(path), np.full((48, 64), 40 * index, np.uint8))
        digest.update(path.read_bytes())
    monkeypatch.setattr(recording, "CAMERA", SMALL)
    monkeypatch.setattr(recording.check_frames, "__defaults__", (COUNT, digest.hexdigest()))
    return lambda folder: tmp_path / "tree"


def test_the_package_becomes_a_recording(tmp_path, package):
    made = recording.get_recording(tmp_path / "state", package)
    assert (made.kind, made.note) == ("real", "")
    with open_bag(made.path) as bag:
        assert [bag.topics[name].count for name in (IMAGE_TOPIC, INFO_TOPIC)] == [COUNT, COUNT]
        stamps = [message.stamp for message in bag.messages([IMAGE_TOPIC])]
    assert stamps == [START + index * 40_000_000 for index in range(COUNT)]  # 25 Hz


def test_it_is_made_once(tmp_path, package):
    recording.get_recording(tmp_path / "state", package)

    def never(folder):
        raise AssertionError("fetched again")

    assert recording.get_recording(tmp_path / "state", never).kind == "real"


def test_other_frames_than_expected_are_refused(tmp_path, package):
    image = package(None) / recording.FRAMES / "image0003.pgm"
    image.write_bytes(image.read_bytes()[:-1] + b"?")
    with pytest.raises(recording.Unavailable, match=r"wanted SHA-256 .* found"):
        recording.make_real(tmp_path / "cube", package)
    assert not (tmp_path / "cube").exists()


def test_a_missing_frame_is_named(tmp_path, package):
    (package(None) / recording.FRAMES / "image0002.pgm").unlink()
    with pytest.raises(recording.Unavailable, match=r"image0002\.pgm"):
        recording.make_real(tmp_path / "cube", package)


def test_where_the_package_cannot_be_had_a_drawn_recording_says_why(tmp_path, monkeypatch):
    def offline(folder):
        raise recording.Unavailable("apt-get update failed: no network")

    monkeypatch.setattr(recording, "CAMERA", SMALL)
    made = recording.get_recording(tmp_path, offline)
    assert made.kind == "synthetic" and "no network" in made.note
    with open_bag(made.path) as bag:
        assert bag.topics[IMAGE_TOPIC].count == 150
    assert [path.name for path in tmp_path.iterdir()] == ["synthetic_cube"]


def test_machines_without_apt_are_told_so(tmp_path, monkeypatch):
    monkeypatch.setattr(recording.shutil, "which", lambda name: None)
    monkeypatch.setattr(recording, "FRAMES", "no/such/folder")
    with pytest.raises(recording.Unavailable, match="no apt-get"):
        recording.fetch_package(tmp_path)


def test_a_failing_command_is_unavailable_with_its_last_line(tmp_path):
    with pytest.raises(recording.Unavailable, match="no luck"):
        recording.call(["sh", "-c", "echo no luck >&2; exit 3"], tmp_path)


def test_a_recording_appears_whole_or_not_at_all(tmp_path):
    def breaks():
        yield np.zeros((48, 64), np.uint8)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_bag(tmp_path / "bag", breaks(), SMALL)
    assert os.listdir(tmp_path) == []


def test_images_of_another_size_are_refused_with_both_sizes(tmp_path):
    with pytest.raises(ValueError, match="wanted 48 x 64, found 10 x 20"):
        write_bag(tmp_path / "bag", [np.zeros((10, 20), np.uint8)], SMALL)


def test_the_drawn_cube_stays_in_view_at_working_distance():
    camera = recording.CAMERA
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * 0.042
    for phase in np.linspace(0, 1, 50):
        pose = pose_at(phase)
        np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-12)
        pixels = project(camera, corners @ pose[:3, :3].T + pose[:3, 3])
        assert (pixels > 5).all() and (pixels < [camera.width - 5, camera.height - 5]).all()
        assert 0.37 < pose[2, 3] < 0.63


def test_the_cube_is_drawn_where_its_pose_says():
    first, second = (frame for _, frame in zip(range(2), draw_frames(recording.CAMERA, 2)))
    changed = np.abs(first.image.astype(int) - second.image).max(2) > 40
    rows, columns = np.nonzero(changed)
    center = project(recording.CAMERA, first.pose[None, :3, 3])[0]
    assert np.hypot(columns - center[0], rows - center[1]).max() < 80
    assert np.array_equal(next(draw_frames(recording.CAMERA, 1)).image, first.image)  # seeded
