# SPDX-License-Identifier: Apache-2.0
"""The doctor against real publishers: what it finds, what it says to do, and its exit code."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("onnx")
from disc_bundle import write_disc_bundle
from geometry_msgs.msg import TransformStamped
from rig import FRAME, Camera, picture, to_time
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from tf2_msgs.msg import TFMessage

from pose_kd_ros.bundle.manifest import BundleError
from pose_kd_ros.nodes import doctor
from pose_kd_ros.nodes.transform_buffer import STATIC

ROOT = Path(__file__).resolve().parents[2]
SMALL = picture(width=320, height=240)


def examine(ros, *arguments, publish=lambda: None):
    """Run the doctor while ``publish`` is called at 20 Hz; return its exit code and its lines by name."""
    command = [sys.executable, "-m", "pose_kd_ros.nodes.doctor", "--seconds", "2", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < end:
            publish()
            ros.until(lambda: False, 0.05)
        said = process.communicate(timeout=1)[0]
    finally:
        process.kill()
    found, last = {}, ""
    for line in said.splitlines():
        if line.startswith(" "):
            found[last] += "\n" + line.strip()
        else:
            level, last = line.split()[:2]
            found[last] = level + " " + line.split(maxsplit=2)[2]
    return process.returncode, found


class Live:
    """A camera that publishes properly, unless told otherwise."""

    def __init__(self, ros, size=(320, 240), stamped=True):
        self.camera, self.size, self.stamped = Camera(ros, "driver"), size, stamped

    def __call__(self):
        now = self.camera.node.get_clock().now().nanoseconds * 1e-9
        self.camera.info(*self.size, d=[-0.1, 0.0, 0.0, 0.0, 0.0])
        self.camera.image(now if self.stamped else 0.0, SMALL)


def test_all_is_well(ros, tmp_path):
    bundle = str(write_disc_bundle(tmp_path / "discs"))
    node = ros.node("mounting")
    mounting = TransformStamped(child_frame_id=FRAME)
    mounting.header.frame_id = "base"
    static = node.create_publisher(TFMessage, "/tf_static", STATIC)
    static.publish(TFMessage(transforms=[mounting]))
    code, found = examine(ros, "--bundle", bundle, "--output-frame", "base", publish=Live(ros))
    assert code == 0 and {line.split()[0] for line in found.values()} == {"OK"}, found
    expected = "ros clock image content rate stamps camera_info rectified frame shared_memory tf bundle"
    assert set(found) >= set(expected.split())
    assert "320x240 rgb8" in found["content"] and "golden sample replayed" in found["bundle"]
    assert "driver publishes sensor_msgs/msg/Image (best_effort, volatile)" in found["image"]


def test_no_images(ros):
    other = Live(ros)
    code, found = examine(ros, "--image", "elsewhere", "--bundle", "nobody", publish=other)
    assert code == 1
    assert found["image"].startswith("FAIL /elsewhere: wanted a publisher of images, found none")
    assert "fix: --image with one of /image" in found["image"]
    assert found["bundle"].startswith("FAIL bundle: wanted a folder or one of the installed")
    assert "fix: " in found["bundle"]


def test_a_publisher_that_does_not_publish(ros):
    Camera(ros)
    code, found = examine(ros)
    assert code == 1 and found["image"].startswith("FAIL /image: wanted images, found none from /camera")
    assert found["camera_info"].startswith("FAIL")


@pytest.mark.filterwarnings("ignore:Deprecated in favor of:DeprecationWarning")  # rclpy's own, of its warning
def test_a_node_that_asks_for_more_than_the_camera_offers(ros):
    ros.node("grabber").create_subscription(Image, "image", print, 10)
    code, found = examine(ros, publish=Live(ros))
    assert code == 1
    assert found["image"].startswith(
        "FAIL /image: wanted a QoS that /grabber can hear, found /driver publishes"
    )
    assert "fix: reliability:=best_effort" in found["image"]


def test_camera_info_of_another_size_and_stamps_that_stand(ros):
    code, found = examine(ros, publish=Live(ros, (640, 480), stamped=False))
    assert code == 1
    assert "FAIL /camera_info: the image is 320x240, camera_info says 640x480" in found["camera_info"]
    assert "fix: a calibration of this resolution" in found["camera_info"]
    assert found["stamps"].startswith("FAIL wanted stamps that advance")


def test_missing_tf(ros):
    code, found = examine(ros, "--output-frame", "base", publish=Live(ros))
    assert code == 1 and found["tf"].startswith(f"FAIL TF: wanted '{FRAME}' in 'base' at ")
    assert "found no frame 'base'" in found["tf"] and "static_transform_publisher" in found["tf"]
    assert [name for name, line in found.items() if line.startswith("FAIL")] == ["tf"]


def test_a_clock_that_nobody_follows(ros):
    live = Live(ros)
    clock = live.camera.node.create_publisher(Clock, "/clock", 10)

    def publish():
        live()
        clock.publish(Clock())

    code, found = examine(ros, publish=publish)
    assert code == 0 and found["clock"].startswith("WARN /clock: wanted nobody")
    assert found["stamps"].startswith("WARN wanted stamps -0.05 to 1 s old by /clock")


def test_a_rectified_image_with_the_raw_cameras_distortion():
    info = CameraInfo(d=[0.1, 0.0, 0.0, 0.0, 0.0])
    info.k[0] = info.p[0] = 500.0
    assert doctor.check_rectified("/camera/image_rect", info).level == "FAIL"
    assert doctor.check_rectified("/camera/image_raw", info).level == "OK"
    info.d = []
    assert doctor.check_rectified("/camera/image_rect", info).level == "OK"
    assert doctor.check_rectified("/camera/image_raw", info).level == "WARN"
    info.p[0] = 450.0
    assert "wanted K from P (450.00)" in doctor.check_rectified("/camera/image_rect", info).text


def test_frames_that_are_not_called_optical():
    assert doctor.check_frame_name("camera_link").level == "WARN"
    assert doctor.check_frame_name("camera_color_optical_frame").level == "OK"


def test_images_that_are_larger_than_the_shared_memory(monkeypatch, tmp_path):
    for name in doctor.PROFILES:
        monkeypatch.delenv(name, raising=False)
    assert doctor.check_shared_memory(640 * 480 * 3).level == "WARN"
    assert doctor.check_shared_memory(320 * 240 * 3).level == "OK"
    monkeypatch.setenv(doctor.PROFILES[0], str(ROOT / "standalone/fastdds_shm.xml"))
    assert "segment of 67.11 MB" in doctor.check_shared_memory(640 * 480 * 3).text
    monkeypatch.setenv(doctor.PROFILES[0], str(tmp_path / "gone.xml"))
    assert doctor.check_shared_memory(1).level == "FAIL"


def test_slow_and_irregular_images():
    heard = doctor.Listener.__new__(doctor.Listener)
    heard.arrived = [doctor.Arrived(at, 0, None) for at in np.arange(0.0, 2.0, 0.5)]
    assert doctor.check_rate(heard).text == "wanted 5 Hz or more, found 2.0 Hz, longest gap 500 ms"
    heard.arrived = heard.arrived[:1]
    assert doctor.check_rate(heard).level == "FAIL"


def stamped(*seconds):
    heard = doctor.Listener.__new__(doctor.Listener)
    heard.clock_ns = None
    last = int(1e9 * max(seconds))
    heard.arrived = [doctor.Arrived(at, last, to_time(at)) for at in seconds]
    return heard


def test_stamps_that_go_back_a_little_are_wrong_and_a_bag_that_loops_is_not():
    assert doctor.check_stamps(stamped(10.0, 10.1, 10.2)).level == "OK"
    assert doctor.check_stamps(stamped(10.0, 10.1, 10.05)).level == "FAIL"
    assert doctor.check_stamps(stamped(10.8, 10.0, 10.1)).level == "OK"


def test_tf_of_all_the_time_that_was_listened_to_is_there_at_the_end(ros):
    node = ros.node("pose_doctor")
    heard = doctor.Listener(node, "image", "camera_info", 40.0)
    heard.image = Image()
    heard.image.header.frame_id = FRAME
    heard.arrived = [doctor.Arrived(at, 0, to_time(at)) for at in np.arange(100.0, 140.0, 0.1)]
    for at in np.arange(99.9, 140.2, 0.1):
        said = TransformStamped(child_frame_id=FRAME)
        said.header.frame_id, said.header.stamp = "base", to_time(at)
        heard.frames._put(TFMessage(transforms=[said]), False)
    assert doctor.check_tf(heard, "base").level == "OK"


def test_a_mesh_that_the_node_will_refuse_is_found(monkeypatch, tmp_path):
    bundle = str(write_disc_bundle(tmp_path / "discs"))

    def damaged(*_):
        raise BundleError("mesh_000001.npz: damaged")

    monkeypatch.setattr("pose_kd_ros.bundle.store.Bundle.mesh", damaged)
    assert str(doctor.check_bundle(bundle)).startswith("FAIL  bundle        mesh_000001.npz: damaged")


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf"])
def test_a_time_that_is_none_is_refused(seconds, capsys):
    with pytest.raises(SystemExit):
        doctor.parser().parse_args(["--seconds", seconds])
    assert "wanted more than 0, 3600 at most, found" in capsys.readouterr().err
