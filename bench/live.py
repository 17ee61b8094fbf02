# SPDX-License-Identifier: Apache-2.0
"""The pose node in a separate process, and a camera that sends images to it over DDS."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String
from tf2_msgs.msg import TFMessage

from pose_kd_ros.core.sensor_messages import to_seconds
from pose_kd_ros.nodes.encode_messages import array_to_image
from pose_kd_ros.recordings.bags import open_bag

FOCAL = 600.0
LISTEN = QoSProfile(depth=100)


def painted(count: int, width: int, height: int) -> list[tuple[Image, CameraInfo]]:
    """Return frames with a red disc that moves, and is absent in every eighth frame."""
    info = CameraInfo(width=width, height=height, distortion_model="plumb_bob")
    info.k = [FOCAL, 0.0, width / 2, 0.0, FOCAL, height / 2, 0.0, 0.0, 1.0]
    info.header.frame_id = "camera"
    frames = []
    for index in range(count):
        picture = np.full((height, width, 3), 30, np.uint8)
        place = (
            width // 2 + int(width / 5 * np.sin(index / 9)),
            height // 2 + int(height / 5 * np.cos(index / 11)),
        )
        if index % 8:
            cv2.circle(picture, place, height // 12, (255, 0, 0), -1)
        frames.append((array_to_image(picture, "rgb8", info.header), info))
    return frames


def recorded(path: Path, count: int) -> list[tuple[Image, CameraInfo]]:
    """Return the first frames of a recording with one image and one camera_info topic."""
    images: list[Image] = []
    info = None
    with open_bag(path) as bag:
        kinds = {topic.name: topic.type for topic in bag.pick()}
        for message in bag.messages():
            if kinds[message.topic].endswith("/CameraInfo"):
                info = deserialize_message(message.data, CameraInfo)
            elif kinds[message.topic].endswith("/Image") and len(images) < count:
                images.append(deserialize_message(message.data, Image))
    return [(image, info) for image in images]


class Bench(Node):
    """Publishes frames stamped with the current time; records the delay of transforms, and the statuses."""

    def __init__(self):
        super().__init__("bench")
        self._images = self.create_publisher(Image, "image", qos_profile_sensor_data)
        self._infos = self.create_publisher(CameraInfo, "camera_info", qos_profile_sensor_data)
        self.tf_ms: list[float] = []
        self.statuses: list[dict] = []
        self.create_subscription(TFMessage, "/tf", self._on_tf, LISTEN)
        self.create_subscription(String, "/pose_node/status", self._on_status, LISTEN)

    def _on_tf(self, message: TFMessage) -> None:
        now = self.get_clock().now().nanoseconds * 1e-9
        self.tf_ms.append(1e3 * (now - to_seconds(message.transforms[0].header.stamp)))

    def _on_status(self, message: String) -> None:
        self.statuses.append(json.loads(message.data))

    def ready(self) -> bool:
        return bool(
            self._images.get_subscription_count()
            and self._infos.get_subscription_count()
            and self.count_publishers("/pose_node/status")
        )

    def send(self, image: Image, info: CameraInfo) -> None:
        image.header.stamp = info.header.stamp = self.get_clock().now().to_msg()
        self._infos.publish(info)
        self._images.publish(image)

    def play(self, frames: list, count: int, rate: float) -> Iterator[int]:
        """Send ``count`` frames at ``rate`` Hz, repeating the list; yield after each, and listen in
        between."""
        due = time.monotonic()
        for index in range(count):
            self.send(*frames[index % len(frames)])
            yield index
            due = max(due + 1 / rate, time.monotonic())  # never a burst to catch up
            self.listen(due - time.monotonic())

    def listen(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            rclpy.spin_once(self, timeout_sec=left)


@contextmanager
def node_process(bundle: str, *parameters: str) -> Iterator[subprocess.Popen]:
    """Start the node on a bundle in a separate process, and rclpy in this one; end both."""
    values = [text for value in (f"bundle:={bundle}", *parameters) for text in ("-p", value)]
    command = [sys.executable, "-m", "pose_kd_ros.nodes.pose_node", "--ros-args", *values]
    process = subprocess.Popen(command)
    rclpy.init()
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)
        rclpy.try_shutdown()


@contextmanager
def live(bundle: str, *parameters: str) -> Iterator[tuple[Bench, subprocess.Popen]]:
    """Start the node on a bundle and yield the bench, once they hear each other, and the node's process."""
    with node_process(bundle, *parameters) as process:
        bench = Bench()
        end = time.monotonic() + 60
        while not bench.ready():
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit("the node did not become active; its log says why")
            rclpy.spin_once(bench, timeout_sec=0.1)
        yield bench, process
