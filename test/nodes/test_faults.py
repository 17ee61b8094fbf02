# SPDX-License-Identifier: Apache-2.0
"""Everything that goes wrong on a robot: the message, the count, and that the node recovers."""

import shutil
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("onnx")
from disc_bundle import write_disc_bundle
from rclpy.clock import ClockType
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from rig import FRAME, RED, Camera, Rig, picture, to_time
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage
from visualization_msgs.msg import Marker

from pose_kd_ros.nodes import processing

BALL = picture((150, 110, 30, RED))
ERROR, OK, WARN = b"\x02", b"\x00", b"\x01"


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    return str(write_disc_bundle(tmp_path_factory.mktemp("bundles") / "discs"))


@pytest.fixture
def rig(ros, discs):
    return Rig(ros, bundle=discs, threads=1).connect()


def recovers(rig):
    """Good frames after the trouble give poses, and the diagnosis is clean; returns the first status."""
    statuses = []
    for _ in range(5):  # a machine that stands still for 3 s makes the node complain of silence
        statuses.append(rig.show(BALL))
        assert statuses[-1]["tracks"][0]["class"] == "red_ball"
        if rig.diagnosis()[:2] == (OK, "estimating poses"):
            return statuses[0]
    raise AssertionError(rig.diagnosis()[1])


def test_images_without_camera_info(rig):
    assert rig.show(BALL, info=False) is None
    level, message, values = rig.diagnosis()
    assert level == ERROR and "no camera_info has arrived" in message
    assert "/camera_info: /camera publishes sensor_msgs/msg/CameraInfo (best_effort, volatile)" in message
    assert values["refused_camera_info_missing"] == "1"
    assert recovers(rig)["refused_camera_info_missing"] == 1


def test_an_uncalibrated_camera(rig):
    rig.camera.info(k=[0.0] * 9)
    rig.pause(0.1)
    assert rig.show(BALL, info=False) is None
    assert "not calibrated (K[0] = 0)" in rig.diagnosis()[1]
    recovers(rig)


def test_an_unknown_distortion_model(rig):
    rig.camera.info(distortion_model="thin_prism", d=[0.1] * 4)
    rig.pause(0.1)
    assert rig.show(BALL, info=False) is None
    assert "equidistant, fisheye, found 'thin_prism'" in rig.diagnosis()[1]
    recovers(rig)


def test_a_resolution_that_changes_in_mid_stream(rig):
    before = rig.show(BALL)["tracks"][0]
    large = picture((300, 220, 60, RED), width=640, height=480)
    assert rig.show(large, info=False) is None
    assert "the image is 640x480, camera_info says 320x240" in rig.diagnosis()[1]
    k = [600.0, 0.0, 320.0, 0.0, 600.0, 240.0, 0.0, 0.0, 1.0]
    rig.camera.info(640, 480, k=k)
    rig.pause(0.1)
    after = rig.show(large, info=False)["tracks"][0]
    assert after == {**after, "id": before["id"], "state": "tracked"}


def test_an_image_of_another_camera(rig):
    assert rig.show(BALL, frame="left") is None
    assert "the image is of frame 'left', camera_info of 'camera_optical'" in rig.diagnosis()[1]
    recovers(rig)


def test_an_image_without_a_frame(rig):
    assert rig.show(BALL, frame="") is None
    assert "the image has no frame_id" in rig.diagnosis()[1]
    recovers(rig)


@pytest.mark.parametrize("encoding", ["yuv422_nothing", "16UC1"])
def test_an_encoding_that_cannot_be_used(rig, encoding):
    rig.show(BALL)
    assert rig.show(BALL, encoding) is None
    assert encoding in rig.diagnosis()[1]
    assert recovers(rig)["refused_encoding"] == 1


def test_image_data_that_is_too_short(rig):
    assert rig.show(BALL, data=bytes(100)) is None
    assert "found step 960 and 100 bytes" in rig.diagnosis()[1]
    recovers(rig)


def test_a_truncated_jpeg(ros, discs):
    rig = Rig(ros, bundle=discs, threads=1, image_transport="compressed").connect()
    data = cv2.imencode(".jpg", BALL[..., ::-1])[1].tobytes()

    def send(content):
        rig.stamp += 0.04
        message = CompressedImage(format="rgb8; jpeg compressed bgr8", data=content)
        message.header.frame_id, message.header.stamp = FRAME, to_time(rig.stamp)
        rig.camera.compressed.publish(message)

    rig.camera.info()
    rig.pause(0.1)
    send(data[: len(data) // 2])
    assert ros.until(lambda: rig.refusals(), 5)
    assert "is truncated" in rig.diagnosis()[1]
    send(data)
    assert ros.until(lambda: rig.statuses, 5) and rig.status()["tracks"][0]["class"] == "red_ball"


def damaged(discs, folder, damage):
    shutil.copytree(discs, folder)
    damage(Path(folder))
    return str(folder)


def flip_byte(folder):
    data = bytearray((folder / "network.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "network.onnx").write_bytes(data)


def swap_golden(folder):
    """Another network than the one that was exported: everything matches but the golden sample."""
    import dataclasses
    import json

    from pose_kd_ros.bundle.store import open_bundle, sha256

    manifest = open_bundle(folder).manifest
    with np.load(folder / "golden.npz") as stored:
        outputs = {name: stored[name] + 1 for name in stored.files}
    np.savez(folder / "golden.npz", **outputs)
    changed = dataclasses.replace(
        manifest, files={**manifest.files, "golden.npz": sha256(folder / "golden.npz")}
    )
    (folder / "manifest.json").write_text(json.dumps(dataclasses.asdict(changed)))


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (flip_byte, "network.onnx: damaged or exchanged"),
        (lambda folder: (folder / "golden.npz").unlink(), "golden.npz: missing"),
        (lambda folder: (folder / "manifest.json").unlink(), "not a bundle"),
        (swap_golden, "golden sample deviates by 1"),
    ],
)
def test_a_broken_bundle_is_refused_and_a_good_one_can_take_its_place(ros, discs, tmp_path, damage, text):
    rig = Rig(ros, bundle=damaged(discs, tmp_path / "broken", damage), threads=1)
    assert rig.state == "unconfigured"
    level, message, _ = rig.diagnosis()
    assert level == ERROR and text in message
    result = rig.pose_node.set_parameters([Parameter("bundle", value=discs)])
    assert result[0].successful
    rig.pose_node.start()
    rig.connect()
    recovers(rig)


@pytest.mark.parametrize(
    ("name", "text"), [("", "found ''"), ("nothing_of_the_kind", "wanted a folder or one of the installed")]
)
def test_a_bundle_that_is_not_there(ros, name, text):
    rig = Rig(ros, bundle=name, camera=False)
    assert rig.state == "unconfigured" and text in rig.diagnosis()[1]


def test_a_publisher_that_dies_and_returns(ros, rig):
    rig.show(BALL)
    rig.ros.executor.remove_node(rig.camera.node)
    ros.nodes.remove(rig.camera.node)
    rig.camera.node.destroy_node()
    assert ros.until(lambda: not rig.pose_node.count_publishers("/image"), 10)
    assert ros.until(lambda: [m.action for m in rig.markers[-1].markers] == [Marker.DELETE] * 2, 10)
    level, message, _ = rig.diagnosis()
    assert level == ERROR and "no image on /image" in message and "nobody publishes there" in message
    rig.camera = Camera(ros, "camera_again")
    rig.connect()
    assert recovers(rig)["tracks"][0]["state"] == "new"


@pytest.mark.filterwarnings("ignore:Deprecated in favor of:DeprecationWarning")  # rclpy's own QoS warning
def test_silence_names_the_publisher_s_qos(ros, discs):
    rig = Rig(ros, bundle=discs, threads=1, reliability="reliable")
    assert ros.until(lambda: rig.pose_node.count_publishers("/image"), 10)
    rig.pause(3.5)
    message = rig.diagnosis()[1]
    assert "/camera publishes sensor_msgs/msg/Image (best_effort, volatile)" in message
    assert "set the parameter reliability to best_effort" in message


def test_the_reliability_can_be_overridden_as_ros_has_it(ros, discs):
    name = "qos_overrides./image.subscription."
    rig = Rig(ros, bundle=discs, threads=1, **{name + "reliability": "reliable", name + "depth": 3})
    info = rig.pose_node.get_subscriptions_info_by_topic("/image")[0]
    assert info.qos_profile.reliability.name == "RELIABLE"
    assert rig.pose_node.trigger_deactivate() and rig.pose_node.trigger_activate()
    assert rig.state == "active"


def failing(error):
    def fail(*args):
        raise error

    return fail


@pytest.mark.parametrize("max_errors", [0, 5])
def test_a_worker_that_dies_takes_the_node_through_its_error_transition(ros, discs, monkeypatch, max_errors):
    rig = Rig(ros, bundle=discs, threads=1, max_errors=max_errors).connect()
    rig.show(BALL)
    monkeypatch.setattr(rig.pose_node.processing._follower, "process", failing(SystemExit("all over")))
    rig.camera.image(rig.stamp + 1, BALL)
    assert ros.until(lambda: rig.state == "unconfigured", 10)
    assert not rig.pose_node.get_subscriptions_info_by_topic("/image")
    if max_errors:
        assert ros.until(lambda: rig.state == "active", 10)
    else:
        level, message, _ = rig.diagnosis()
        assert level == ERROR and message == "the worker died: SystemExit: all over"
        rig.pose_node.start()
    rig.connect()
    recovers(rig)


def test_a_worker_that_hangs_is_told_of(ros, rig, monkeypatch):
    rig.show(BALL)
    process, release = rig.pose_node.processing._follower.process, threading.Event()

    def hang(*args):
        release.wait(30)
        return process(*args)

    monkeypatch.setattr(processing, "STUCK_S", 0.2)
    monkeypatch.setattr(rig.pose_node.processing._follower, "process", hang)
    rig.camera.image(rig.stamp + 0.01, BALL)
    rig.pause(0.5)
    level, message, _ = rig.diagnosis()
    release.set()
    assert level == ERROR and message.startswith("stuck: one frame has been worked on for")
    recovers(rig)


def test_a_simulated_clock_that_jumps_back(ros, discs):
    rig = Rig(ros, bundle=discs, threads=1, use_sim_time=True).connect()
    clock = rig.camera.node.create_publisher(Clock, "/clock", QoSProfile(depth=10))
    assert ros.until(clock.get_subscription_count, 10)

    def at(seconds):
        clock.publish(Clock(clock=to_time(seconds)))
        assert ros.until(lambda: abs(rig.pose_node.get_clock().now().nanoseconds - seconds * 1e9) < 1e6, 5)

    assert rig.pose_node.get_clock().clock_type == ClockType.ROS_TIME
    at(101.0)
    assert rig.show(BALL)["latency_ms"] == pytest.approx(960, abs=1)
    at(20.0)
    assert ros.until(lambda: [m.action for m in rig.markers[-1].markers] == [Marker.DELETE] * 2, 5)
    rig.stamp = 20.0
    after = rig.show(BALL)["tracks"][0]
    assert after["state"] == "new"


def test_given_regions_take_the_place_of_the_search(ros, discs):
    rig = Rig(ros, bundle=discs, threads=1, use_regions=True).connect()
    assert rig.show(BALL)["tracks"] == []
    rig.give_region(150, 110, 80)
    assert rig.show(BALL)["tracks"][0]["class"] == "red_ball"
    assert rig.show(BALL)["tracks"][0]["state"] == "tracked"
