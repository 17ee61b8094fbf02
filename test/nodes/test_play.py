# SPDX-License-Identifier: Apache-2.0
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

pytest.importorskip("rclpy")
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image

from pose_kd_ros.nodes.play import Player, PlayOptions, Timeline, message_class, parse, qos_profile
from pose_kd_ros.recordings.bags import Topic, open_bag
from standalone.bag_writer import IMAGE_TOPIC, INFO_TOPIC, START, Pinhole, write_bag

CAMERA = Pinhole(32, 24, 30.0, 31.0, 15.5, 11.5)
COUNT = 6
EVERYTHING = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE)


@pytest.fixture
def recording(tmp_path):
    write_bag(
        tmp_path / "bag", (np.full((24, 32), value, np.uint8) for value in range(COUNT)), CAMERA, rate=50
    )
    return tmp_path / "bag"


class Playing:
    """Plays in a thread of its own, so that the test's thread can spin the listeners."""

    def __init__(self, ros, recording, **options):
        self.stop, self.report = threading.Event(), None
        self.thread = threading.Thread(
            target=self._play, args=(ros.node("player"), recording, options), daemon=True
        )
        self.thread.start()

    def _play(self, node, recording, options):
        with open_bag(recording) as bag:
            self.report = Player(
                node, bag, PlayOptions(**{"wait": 10.0, "topics": (IMAGE_TOPIC,), **options}), self.stop
            ).play()

    def done(self):
        return not self.thread.is_alive()

    def finish(self):
        self.stop.set()
        self.thread.join(10)
        assert self.done()


def test_every_message_arrives_as_recorded(ros, recording):
    listener = ros.node("listener")
    images = ros.collect(listener, Image, IMAGE_TOPIC, EVERYTHING)
    infos = ros.collect(listener, CameraInfo, INFO_TOPIC, EVERYTHING)
    playing = Playing(ros, recording, topics=())
    assert ros.until(lambda: len(images) == COUNT and len(infos) == COUNT)
    assert ros.until(playing.done)
    assert playing.report.messages == 2 * COUNT and playing.report.loops == 1
    assert [image.data[0] for image in images] == list(range(COUNT))
    assert images[0].header.stamp.sec * 10**9 == START and images[0].header.frame_id == "camera_optical_frame"
    np.testing.assert_allclose(infos[0].k, CAMERA.matrix.reshape(-1))
    assert infos[0].distortion_model == "plumb_bob" and list(infos[0].d) == [0] * 5


def test_a_loop_starts_again_until_it_is_stopped(ros, recording):
    images = ros.collect(ros.node("listener"), Image, IMAGE_TOPIC, EVERYTHING)
    playing = Playing(ros, recording, loop=True, rate=4.0)
    assert ros.until(lambda: len(images) >= 3 * COUNT)
    playing.finish()
    assert [image.data[0] for image in images[: 2 * COUNT]] == list(range(COUNT)) * 2


def test_the_clock_is_never_behind_a_message_and_jumps_back_with_the_loop(ros, recording):
    listener = ros.node("listener")
    images = ros.collect(listener, Image, IMAGE_TOPIC, EVERYTHING)
    clocks = ros.collect(listener, Clock, "/clock", EVERYTHING)
    playing = Playing(ros, recording, loop=True, clock_hz=200.0)
    assert ros.until(lambda: len(images) > COUNT and np.any(np.diff(nanoseconds(clocks)) < 0))
    playing.finish()
    assert START in nanoseconds(clocks)
    assert min(nanoseconds(clocks)) == START


def nanoseconds(clocks):
    return [clock.clock.sec * 10**9 + clock.clock.nanosec for clock in clocks]


def test_restamped_headers_are_of_now_and_pairs_stay_pairs(ros, recording):
    listener = ros.node("listener")
    images = ros.collect(listener, Image, IMAGE_TOPIC, EVERYTHING)
    infos = ros.collect(listener, CameraInfo, INFO_TOPIC, EVERYTHING)
    before = time.time()
    Playing(ros, recording, restamp=True, topics=())
    assert ros.until(lambda: len(images) == COUNT and len(infos) == COUNT)
    seconds = [image.header.stamp.sec + image.header.stamp.nanosec / 1e9 for image in images]
    assert [image.header.stamp for image in images] == [info.header.stamp for info in infos]
    assert before - 1 < seconds[0] < time.time() + 1
    np.testing.assert_allclose(np.diff(seconds), 0.02, atol=1e-6)


def test_best_effort_listeners_match(ros, recording):
    images = ros.collect(ros.node("listener"), Image, IMAGE_TOPIC, qos_profile_sensor_data)
    playing = Playing(ros, recording, loop=True)
    assert ros.until(lambda: images)
    playing.finish()


def test_a_player_nobody_listens_to_plays_after_its_wait(ros, recording):
    playing = Playing(ros, recording, wait=0.1)
    assert ros.until(playing.done)
    assert playing.report.messages == COUNT


def test_the_pace_is_that_of_the_recording_and_the_rate():
    timeline = Timeline(START, rate=2.0)
    assert timeline.due(START) == timeline.monotonic
    assert timeline.due(START + 10**9) - timeline.monotonic == pytest.approx(0.5)


RELIABLE, BEST_EFFORT = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT
VOLATILE, LATCHED = DurabilityPolicy.VOLATILE, DurabilityPolicy.TRANSIENT_LOCAL


@pytest.mark.parametrize(
    "recorded, reliability, durability, depth",
    [
        ({}, RELIABLE, VOLATILE, 10),
        ({"reliability": "best_effort", "depth": "5"}, BEST_EFFORT, VOLATILE, 5),
        ({"durability": "transient_local", "depth": "0"}, RELIABLE, LATCHED, 1),
        ({"reliability": "unknown", "history": "unknown"}, RELIABLE, VOLATILE, 10),
    ],
)
def test_the_recorded_qos_is_offered(recorded, reliability, durability, depth):
    profile = qos_profile(Topic("/t", "std_msgs/msg/String", 1, tuple(recorded.items())))
    assert (profile.reliability, profile.durability, profile.depth) == (reliability, durability, depth)


def test_types_that_are_not_installed_are_told_apart():
    assert message_class("sensor_msgs/msg/Image") is Image
    with pytest.raises(ImportError):
        message_class("no_such_msgs/msg/Thing")


@pytest.mark.parametrize("arguments", ["--rate 0", "--restamp --clock 10", "--wait -1"])
def test_options_that_make_no_sense_are_refused(arguments):
    with pytest.raises(SystemExit):
        parse(["bag", *arguments.split()])


def play_process(*arguments):
    command = [sys.executable, "-m", "pose_kd_ros.nodes.play", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_it_cleanly(ros, recording, number):
    images = ros.collect(ros.node("listener"), Image, IMAGE_TOPIC, EVERYTHING)
    process = play_process(recording, "--loop", "--wait", "10", "--topics", IMAGE_TOPIC)
    try:
        assert ros.until(lambda: images, 60)
        process.send_signal(number)
        output, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert "played" in output and "Traceback" not in output


def test_a_recording_that_is_not_there_is_one_line_and_a_failure(tmp_path):
    process = play_process(tmp_path / "nothing")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"No recording at {tmp_path / 'nothing'}" in output and "Traceback" not in output
