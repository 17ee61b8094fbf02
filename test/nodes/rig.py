# SPDX-License-Identifier: Apache-2.0
"""A camera that looks at painted discs, and ears for everything the pose node says."""

import json

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from disc_bundle import RADIUS
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import (
    Detection2D,
    Detection2DArray,
    Detection3DArray,
    LabelInfo,
    ObjectHypothesisWithPose,
)
from visualization_msgs.msg import MarkerArray

from pose_kd_ros.core.sensor_messages import to_seconds
from pose_kd_ros.nodes.encode_messages import array_to_image
from pose_kd_ros.nodes.pose_node import PoseNode

RED, GREEN = (255, 0, 0), (0, 255, 0)
FOCAL = 300.0
FRAME = "camera_optical"
EARS = QoSProfile(depth=1000)
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def picture(*discs, width=320, height=240):
    """discs: (u, v, radius, color)."""
    image = np.full((height, width, 3), 25, np.uint8)
    for u, v, radius, color in discs:
        cv2.circle(image, (u, v), radius, color, -1)
    return image


def position(u, v, radius, width=320, height=240):
    """Where the ball of such a disc is, metres."""
    z = FOCAL * RADIUS / radius
    return np.array([(u - width / 2) * z / FOCAL, (v - height / 2) * z / FOCAL, z])


def to_time(seconds):
    return Time(sec=int(seconds), nanosec=round((seconds - int(seconds)) * 1e9))


class Camera:
    """Publishes images and camera_info, stamped as told."""

    def __init__(self, ros, name="camera"):
        self.node = ros.node(name)
        self.images = self.node.create_publisher(Image, "image", qos_profile_sensor_data)
        self.compressed = self.node.create_publisher(
            CompressedImage, "image/compressed", qos_profile_sensor_data
        )
        self.infos = self.node.create_publisher(CameraInfo, "camera_info", qos_profile_sensor_data)
        self.regions = self.node.create_publisher(Detection2DArray, "regions", 10)

    def info(self, width=320, height=240, frame=FRAME, **changes):
        message = CameraInfo(width=width, height=height, distortion_model="plumb_bob", d=[0.0] * 5)
        message.k = [FOCAL, 0.0, width / 2, 0.0, FOCAL, height / 2, 0.0, 0.0, 1.0]
        message.header.frame_id = frame
        for name, value in changes.items():
            setattr(message, name, value)
        self.infos.publish(message)

    def image(self, stamp, array, encoding="rgb8", frame=FRAME, **changes):
        message = array_to_image(array, encoding, Image().header)
        message.header.frame_id, message.header.stamp = frame, to_time(stamp)
        for name, value in changes.items():
            setattr(message, name, value)
        self.images.publish(message)


class Rig:
    """The node under test, a camera, and lists of what arrived."""

    answers = ("/tf", "/pose_node/detections", "/pose_node/markers", "/pose_node/status")

    def __init__(self, ros, autostart=True, camera=True, **parameters):
        self.ros = ros
        values = [
            Parameter(name, value=value) for name, value in {"autostart": autostart, **parameters}.items()
        ]
        self.pose_node = PoseNode(parameter_overrides=values)
        ros.add(self.pose_node)
        self.listener = ros.node("listener")
        self.detections = self.hear(Detection3DArray, "/pose_node/detections")
        self.tf = self.hear(TFMessage, "/tf")
        self.markers = self.hear(MarkerArray, "/pose_node/markers")
        self.statuses = self.hear(String, "/pose_node/status")
        self.diagnostics = self.hear(DiagnosticArray, "/diagnostics")
        self.objects = self.hear(String, "/pose_node/objects", LATCHED)
        self.labels = self.hear(LabelInfo, "/pose_node/label_info", LATCHED)
        self.camera = Camera(ros) if camera else None
        self.pose_node.start()
        self.stamp = 100.0

    def hear(self, kind, topic, qos=EARS):
        return self.ros.collect(self.listener, kind, topic, qos)

    @property
    def state(self):
        return self.pose_node._state_machine.current_state[1]

    def connect(self):
        """Wait until the camera's topics and the listener's have found each other."""
        camera, node = self.camera, self.pose_node
        assert self.ros.until(
            lambda: (
                camera.images.get_subscription_count() + camera.compressed.get_subscription_count()
                and camera.infos.get_subscription_count()
                and self._heard_of(node)
            )
        )
        return self

    def _heard_of(self, node):
        return all(
            node.count_subscribers(topic) and self.listener.count_publishers(topic) for topic in self.answers
        )

    def show(self, array, encoding="rgb8", step=0.04, info=True, **changes):
        """Send one frame and wait for what the node makes of it: its status, or None for a refusal."""
        self.stamp += step
        before, refused = len(self.statuses), self.refusals()
        if info is True:
            self.camera.info(width=array.shape[1], height=array.shape[0])
            self.pause(0.03)
        self.camera.image(self.stamp, array, encoding, **changes)
        assert self.ros.until(lambda: len(self.statuses) > before or self.refusals() > refused, 10), (
            "frame vanished"
        )
        self.pause(0.05)
        return self.status() if len(self.statuses) > before else None

    def give_region(self, u, v, side):
        """A box to look in, at the time of the last frame."""
        self.give_regions((u, v, side))

    def give_regions(self, *squares, name=None):
        """Boxes (u, v, side) to look in, of the class ``name`` if there is one."""
        boxes = []
        for u, v, side in squares:
            box = Detection2D()
            box.bbox.center.position.x, box.bbox.center.position.y = float(u), float(v)
            box.bbox.size_x = box.bbox.size_y = float(side)
            if name:
                box.results = [ObjectHypothesisWithPose()]
                box.results[0].hypothesis.class_id = name
            boxes.append(box)
        message = Detection2DArray(detections=boxes)
        message.header.stamp = to_time(self.stamp)
        assert self.ros.until(self.camera.regions.get_subscription_count, 10)
        self.camera.regions.publish(message)
        self.pause(0.1)

    def pause(self, seconds):
        self.ros.until(lambda: False, seconds)

    def refusals(self):
        processing = self.pose_node.processing
        return sum(processing.health.refused.values()) if processing else 0

    def status(self, index=-1):
        return json.loads(self.statuses[index].data)

    def diagnosis(self):
        """What /diagnostics says of a moment after this one: (level, message, values)."""
        now = self.listener.get_clock().now().nanoseconds * 1e-9
        assert self.ros.until(lambda: self.diagnostics and self.said_at(self.diagnostics[-1]) > now, 10)
        status = self.diagnostics[-1].status[0]
        return status.level, status.message, {v.key: v.value for v in status.values}

    @staticmethod
    def said_at(message):
        return to_seconds(message.header.stamp)
