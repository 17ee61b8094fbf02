# SPDX-License-Identifier: Apache-2.0
"""Drive the pose node under simulated time: a camera, its listeners, and what can disturb them.

Each disturbance is a generator that publishes as it goes and yields after each period of the camera.
"""

from __future__ import annotations

import json
import random
import time
from collections import deque
from collections.abc import Callable, Iterator

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.client import Client
from rclpy.node import Node
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from rclpy.time import Time
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection3DArray

from pose_kd_ros.core.sensor_messages import to_seconds

ANSWER_S = 30.0  # longest wait for a service: another bundle is loaded and its golden sample replayed
COUNTS = ("frames_processed", "dropped", "unwatched")

Ticks = Iterator[None]


def to_time(seconds: float):
    """Return the message of a time."""
    return Time(nanoseconds=round(1e9 * seconds)).to_msg()


class Driver(Node):
    """Camera, clock and subscribers of the node under test. ``tick`` is one period of the camera."""

    def __init__(self, frames: list[tuple[Image, CameraInfo]], rate: float, bundles: list[str], seed: int):
        super().__init__("soak")
        self.frames, self.rate, self.bundles = frames, rate, bundles
        self.random = random.Random(seed)
        self.now, self.index, self.due = 1000.0, 0, time.monotonic()
        self.sent: deque[float] = deque(maxlen=4000)  # stamps of good images
        self.sent_total = 0
        self.status: deque[dict] = deque(maxlen=4000)  # of this calm
        self.epochs: list[dict[str, int]] = [{}]  # counts of each activation
        self.unbalanced = 0  # most frames received, but neither processed nor counted as anything else
        self.problems: list[str] = []
        self.time = self.create_publisher(Clock, "/clock", 10)
        self.open_camera()
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self.listen_again()
        self.clients_of_node: dict[str, Client] = {
            name: self.create_client(kind, f"/pose_node/{name}")
            for name, kind in {
                "enable": SetBool,
                "reset": Trigger,
                "detect": Trigger,
                "set_parameters": SetParameters,
                "change_state": ChangeState,
            }.items()
        }

    def open_camera(self) -> None:
        self.images = self.create_publisher(Image, "image", qos_profile_sensor_data)
        self.infos = self.create_publisher(CameraInfo, "camera_info", qos_profile_sensor_data)

    def close_camera(self) -> None:
        self.destroy_publisher(self.images)
        self.destroy_publisher(self.infos)

    def listen_again(self) -> None:
        topics = {"/tf": TFMessage, "/pose_node/detections": Detection3DArray}
        self.ears = [self.create_subscription(k, t, lambda message: None, 10) for t, k in topics.items()]
        self.ears.append(
            self.create_subscription(String, "/pose_node/status", self._on_status, QoSProfile(depth=100))
        )

    def stop_listening(self) -> None:
        for ear in self.ears:
            self.destroy_subscription(ear)

    def _on_status(self, message: String) -> None:
        status = json.loads(message.data)
        self.status.append(status)
        self._account(status)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if "pose_node" in status.name:
                self._account({value.key: value.value for value in status.values})

    def _account(self, values: dict) -> None:
        """Keep the newest counts of each activation and check that they add up."""
        counts = {
            name: int(values[name])
            for name in values
            if name in ("frames_received", "lost", *COUNTS) or name.startswith("refused_")
        }
        if "frames_received" not in counts:
            return
        if counts["frames_received"] < self.epochs[-1].get("frames_received", 0):
            self.epochs.append({})
        self.epochs[-1].update(counts)
        known = sum(n for name, n in counts.items() if name in COUNTS or name.startswith("refused_"))
        self.unbalanced = max(self.unbalanced, abs(counts["frames_received"] - known))

    def tick(self, good: bool = True) -> None:
        """Advance the clock by one period; publish the next frame if ``good``; listen."""
        self.now += 1 / self.rate
        self.time.publish(Clock(clock=to_time(self.now)))
        if good:
            image, info = self.frames[self.index % len(self.frames)]
            self.index += 1
            image.header.stamp = info.header.stamp = to_time(self.now)
            self.infos.publish(info)
            self.images.publish(image)
            self.sent.append(to_seconds(image.header.stamp))
            self.sent_total += 1
        self.due = max(self.due + 1 / self.rate, time.monotonic())
        while (left := self.due - time.monotonic()) > 0:
            rclpy.spin_once(self, timeout_sec=left)

    def pause(self, seconds: float, good: bool = True) -> Ticks:
        for _ in range(round(seconds * self.rate)):
            self.tick(good)
            yield

    def call(self, name: str, request) -> Ticks:
        """Ask a service while frames go on. Its answer is in ``answer``, None if none came in time."""
        self.answer = None
        client, end = self.clients_of_node[name], time.monotonic() + ANSWER_S
        future = client.call_async(request)
        while not future.done() and time.monotonic() < end:
            self.tick()
            yield
        if future.done():
            self.answer = future.result()
        else:
            client.remove_pending_request(future)
            self.problems.append(f"{name}: no answer within {ANSWER_S:g} s")


def camera_leaves(driver: Driver) -> Ticks:
    driver.close_camera()
    yield from driver.pause(driver.random.uniform(0.2, 6.0), good=False)
    driver.open_camera()


def second_camera(driver: Driver) -> Ticks:
    other = driver.create_publisher(Image, "image", qos_profile_sensor_data)
    for _ in driver.pause(2.0):
        image = driver.frames[0][0]
        other.publish(image)  # with the stamp of a frame before: late
        yield
    driver.destroy_publisher(other)


def subscribers_leave(driver: Driver) -> Ticks:
    driver.stop_listening()
    yield from driver.pause(driver.random.uniform(0.5, 5.0))
    driver.listen_again()


def recording_loops(driver: Driver) -> Ticks:
    """Stamps and clock go back to the start."""
    driver.now, driver.index = driver.now - driver.random.uniform(2.0, 60.0), 0
    driver.tick()
    yield


def clock_jumps_ahead(driver: Driver) -> Ticks:
    driver.now += driver.random.uniform(5.0, 5000.0)
    driver.tick()
    yield


def stamps_stand_still(driver: Driver) -> Ticks:
    """A camera that sends each image twice, and some late."""
    for _ in range(20):
        image, _ = driver.frames[driver.index % len(driver.frames)]
        image.header.stamp = to_time(driver.now - driver.random.choice((0.0, 0.0, 0.5)))
        driver.images.publish(image)
        driver.tick()
        yield


def hostile_images(driver: Driver) -> Ticks:
    for _ in range(driver.random.randint(1, 30)):
        good, _ = driver.frames[0]
        bad = Image(header=good.header, height=good.height, width=good.width, step=good.step)
        bad.header.stamp = to_time(driver.now + 0.01)
        bad.encoding, bad.data, bad.header.frame_id = good.encoding, good.data, good.header.frame_id
        for name, value in driver.random.choice(HOSTILE).items():
            target = bad.header if name == "frame_id" else bad
            setattr(target, name, value)
        driver.images.publish(bad)
        bad.header.frame_id = good.header.frame_id
        driver.now += 0.02
        driver.tick()
        yield


HOSTILE: list[dict] = [
    {"encoding": "16UC1"},
    {"encoding": "bayer_xyzw8"},
    {"encoding": "\x00" * 300},
    {"data": b""},
    {"data": b"\x00" * 1000},
    {"width": 65000, "height": 65000},
    {"step": 1},
    {"step": 2**32 - 1},
    {"width": 0},
    {"frame_id": ""},
    {"frame_id": "another_camera"},
]


def hostile_calibration(driver: Driver) -> Ticks:
    good = driver.frames[0][1]
    for _ in range(driver.random.randint(1, 20)):
        bad = CameraInfo(header=good.header, width=good.width, height=good.height, k=good.k.copy())
        bad.distortion_model, bad.d = "plumb_bob", [0.0] * 5
        kind = driver.random.randrange(5)
        if kind == 0:
            bad.k[0] = driver.random.choice((0.0, -1.0, float("nan"), float("inf"), 1e300))
        elif kind == 1:
            bad.width = driver.random.choice((0, 1, 2**32 - 1))
        elif kind == 2:
            bad.distortion_model = driver.random.choice(("", "nonsense"))
            bad.d = [1.0]
        elif kind == 3:
            bad.d = [float("nan")] * 5
        else:
            bad.d = [driver.random.uniform(-1e6, 1e6) for _ in range(5)]
        driver.infos.publish(bad)
        driver.tick(good=False)
        yield
        image, _ = driver.frames[0]
        image.header.stamp = to_time(driver.now)
        driver.images.publish(image)
        driver.tick(good=False)
        yield


def set_bundle(driver: Driver, path: str, accepted: bool) -> Ticks:
    value = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=path)
    request = SetParameters.Request(parameters=[Parameter(name="bundle", value=value)])
    yield from driver.call("set_parameters", request)
    if driver.answer and driver.answer.results[0].successful != accepted:
        driver.problems.append(f"bundle {path}: wanted {accepted}, found {driver.answer.results[0].reason}")


def other_bundle(driver: Driver) -> Ticks:
    for path in (*driver.bundles[1:], driver.bundles[0]):
        yield from set_bundle(driver, path, True)
        yield from driver.pause(1.0)


def broken_bundle(driver: Driver) -> Ticks:
    yield from set_bundle(driver, "/nowhere/at/all", False)


def disabled(driver: Driver) -> Ticks:
    yield from driver.call("enable", SetBool.Request(data=False))
    yield from driver.pause(driver.random.uniform(0.2, 3.0))
    yield from driver.call("enable", SetBool.Request(data=True))


def tracks_forgotten(driver: Driver) -> Ticks:
    yield from driver.call("reset", Trigger.Request())


def detect(driver: Driver) -> Ticks:
    yield from driver.call("detect", Trigger.Request())


def lifecycle(driver: Driver) -> Ticks:
    """Deactivate and activate; in one of two cases clean up and configure between them."""
    steps = [Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVATE]
    if driver.random.random() < 0.5:
        steps[1:1] = [Transition.TRANSITION_CLEANUP, Transition.TRANSITION_CONFIGURE]
    for step in steps:
        yield from driver.call("change_state", ChangeState.Request(transition=Transition(id=step)))
        if driver.answer and not driver.answer.success:
            driver.problems.append(f"lifecycle transition {step}: refused")
        yield from driver.pause(driver.random.uniform(0.0, 1.0))


DISTURBANCES: list[Callable[[Driver], Ticks]] = [
    camera_leaves,
    second_camera,
    subscribers_leave,
    recording_loops,
    clock_jumps_ahead,
    stamps_stand_still,
    hostile_images,
    hostile_calibration,
    other_bundle,
    broken_bundle,
    disabled,
    tracks_forgotten,
    detect,
    lifecycle,
]
