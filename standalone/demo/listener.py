# SPDX-License-Identifier: Apache-2.0
"""The demo's node: receives detections, transforms and status, and stores them in Records."""

import contextlib
import json
import time

import numpy as np
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import String
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection3D, Detection3DArray

from pose_kd_ros.core.camera import Camera
from pose_kd_ros.core.sensor_messages import UnusableMessage, decode_pose, info_to_camera
from standalone.bag_writer import INFO_TOPIC
from standalone.demo.records import Found, Records

KEEP = QoSProfile(depth=1000)  # reliable: the demo counts frames and must not lose any


class Listener(Node):
    """Fills `records` while it is spun. camera: of the first usable CameraInfo, or None."""

    def __init__(self, records: Records, pose_node: str = "/pose_node"):
        super().__init__("demo")
        self.records, self.last_heard = records, time.monotonic()
        self.camera: Camera | None = None
        self.create_subscription(CameraInfo, INFO_TOPIC, self._on_info, KEEP)
        self.create_subscription(Detection3DArray, f"{pose_node}/detections", self._on_detections, KEEP)
        self.create_subscription(String, f"{pose_node}/status", self._on_status, KEEP)
        self.create_subscription(TFMessage, "/tf", self._on_tf, KEEP)

    def _on_info(self, message: CameraInfo) -> None:
        self.last_heard = time.monotonic()
        self.records.stamps.append(nanoseconds(message.header.stamp))
        if self.camera is None:
            with contextlib.suppress(UnusableMessage):  # the pose node says why, and the demo shows its log
                self.camera = info_to_camera(message)

    def _on_detections(self, message: Detection3DArray) -> None:
        self.last_heard = time.monotonic()
        stamp = nanoseconds(message.header.stamp)
        self.records.latency[stamp] = (time.time_ns() - stamp) / 1e9
        self.records.found[stamp] = [to_found(detection) for detection in message.detections]

    def _on_status(self, message: String) -> None:
        self.records.statuses.append(json.loads(message.data))

    def _on_tf(self, message: TFMessage) -> None:
        self.records.transforms += len(message.transforms)


def nanoseconds(stamp) -> int:
    """stamp: builtin_interfaces/Time."""
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def to_found(detection: Detection3D) -> Found:
    """Returns what the demo keeps of a detection, whose pose is in its first result."""
    result, size = detection.results[0], detection.bbox.size
    return Found(
        name=result.hypothesis.class_id,
        track=detection.id,
        score=result.hypothesis.score,
        pose=decode_pose(result.pose.pose.position, result.pose.pose.orientation),
        box_pose=decode_pose(detection.bbox.center.position, detection.bbox.center.orientation),
        box_size=np.array([size.x, size.y, size.z]),
    )
