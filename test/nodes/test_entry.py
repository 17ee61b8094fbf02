# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C ends a node with exit code 0, whatever it is doing at that moment."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("onnx")
from disc_bundle import write_disc_bundle
from rclpy.qos import qos_profile_sensor_data
from rig import RED, Camera, picture
from vision_msgs.msg import Detection3DArray

ROOT = Path(__file__).resolve().parents[2]
READY = "print('ready', flush=True); "


def start(code, *arguments):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], env=environment, stdout=subprocess.PIPE, text=True
    )


def interrupt(process, pause):
    """As ``ros2 launch`` and the terminal do: twice. Return the exit code."""
    process.send_signal(signal.SIGINT)
    time.sleep(pause)
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        return process.wait(20)
    finally:
        process.kill()
        process.stdout.close()


@pytest.mark.parametrize("node", ["pose_node", "overlay_node"])
@pytest.mark.parametrize("after", [0.05, 0.15, 0.4, 3.0])
def test_an_interrupt_while_the_node_starts_or_waits(node, after):
    code = "from pose_kd_ros.nodes import entry; import sys; "
    process = start(code + READY + f"sys.exit(entry.{node}())", "--ros-args", "-p", "autostart:=false")
    assert process.stdout.readline() == "ready\n"
    time.sleep(after)
    assert interrupt(process, 0.05) == 0


@pytest.mark.parametrize("pause", [0.0, 0.02, 0.3])
def test_an_interrupt_while_frames_are_worked_on(ros, tmp_path, pause):
    discs = write_disc_bundle(tmp_path / "discs")
    code = "import sys; from pose_kd_ros.nodes import entry; sys.exit(entry.pose_node())"
    process = start(code, "--ros-args", "-p", f"bundle:={discs}", "-p", "threads:=1")
    camera, image = Camera(ros), picture((150, 110, 30, RED))
    found = ros.collect(camera.node, Detection3DArray, "/pose_node/detections", qos_profile_sensor_data)
    stamp = [100.0]

    def show():
        stamp[0] += 0.01
        camera.info()
        camera.image(stamp[0], image)
        return len(found) > 3

    try:
        assert ros.until(show, 30)
    finally:
        code = interrupt(process, pause)
    assert code == 0
