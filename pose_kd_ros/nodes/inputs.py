# SPDX-License-Identifier: Apache-2.0
"""The pose node's subscriptions: made when it activates, destroyed when it deactivates."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

import rclpy.subscription
from rclpy.qos import QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from vision_msgs.msg import Detection2DArray

from ..core.camera import Camera
from ..core.sensor_messages import UnusableMessage, compressed_size, compressed_to_rgb, to_seconds
from .cameras import CameraLatch
from .decode_messages import image_to_rgb
from .depth import DepthBuffer
from .health import Health, describe, explain_silence
from .latest import Latest
from .parameters import Settings
from .regions import GivenRegions

RECTIFIED = re.compile(r"(?<![a-z])rect(?!ang)", re.IGNORECASE)  # image_rect, rectified, image_rect_color
POLICIES = (
    QoSPolicyKind.HISTORY,
    QoSPolicyKind.DEPTH,
    QoSPolicyKind.RELIABILITY,
    QoSPolicyKind.DURABILITY,
    QoSPolicyKind.DEADLINE,
    QoSPolicyKind.LIVELINESS,
    QoSPolicyKind.LIVELINESS_LEASE_DURATION,
)


@dataclass(frozen=True)
class Arrival:
    """An image message and when it came, on the clock of time.perf_counter."""

    message: Image | CompressedImage
    at: float

    @property
    def stamp(self) -> float:
        return to_seconds(self.message.header.stamp)


class Inputs:
    """Subscriptions of image, camera_info, regions and depth.

    Images go to ``latest``; of the others the newest is kept, of depth some. depth: None if it is not wanted.
    """

    def __init__(self, node, settings: Settings, latest: Latest, health: Health):
        self._node, self._latest, self._health = node, latest, health
        self._cameras, self.regions = CameraLatch(), GivenRegions(health)
        self.depth: DepthBuffer | None = None
        self._reliable = settings.reliability == "reliable"
        compressed = settings.image_transport == "compressed"
        kind, topic = (CompressedImage, "image/compressed") if compressed else (Image, "image")
        self._decode: Callable = compressed_to_rgb if compressed else image_to_rgb
        self._size: Callable = (
            compressed_size if compressed else lambda message: (message.width, message.height)
        )
        self._made: list = []  # all subscriptions, to be taken down
        try:
            self._image = self._subscribe(kind, topic, self._image_callback(), settings.reliability)
            self._infos = self._subscribe(CameraInfo, "camera_info", self._cameras.put)
            if settings.use_regions:
                self._subscribe(Detection2DArray, "regions", self.regions.put)
            if settings.use_depth:
                self.depth = DepthBuffer(health, self._depth_sources)
                self._depths = self._subscribe(Image, "depth", self.depth.put)
        except BaseException:
            self.destroy()
            raise

    def _subscribe(self, kind, topic: str, callback, reliability: str = "best_effort"):
        """Depth 1, so that a slow moment costs frames and not age; parameters can override every policy."""
        qos = QoSProfile(depth=1, reliability=ReliabilityPolicy[reliability.upper()])
        made = self._node.create_subscription(
            kind, topic, callback, qos, qos_overriding_options=QoSOverridingOptions(POLICIES)
        )
        self._made.append(made)
        return made

    def destroy(self) -> None:
        """Take the subscriptions down."""
        for subscription in self._made:
            self._node.destroy_subscription(subscription)

    def _image_callback(self) -> Callable:
        """rclpy hands over sequence numbers from Iron on."""

        def with_info(message, info):
            self._on_image(message, info["publication_sequence_number"])

        has_info = hasattr(rclpy.subscription.Subscription, "CallbackType")
        return with_info if has_info else lambda message: self._on_image(message, None)

    def _on_image(self, message, sequence: int | None) -> None:
        self._health.arrived(sequence, self._node.count_publishers(self._image.topic_name))
        self._latest.put(Arrival(message, time.perf_counter()))

    def read(self, arrival: Arrival, wants_camera: bool = True) -> tuple:
        """Return the RGB image and its Camera, None where it is not wanted. Raises UnusableMessage."""
        message = arrival.message
        size = self._size(message)  # what the header says is checked first: decoding what it asks for costs
        camera = self._camera_for(message.header.frame_id, *size) if wants_camera else None
        image = self._decode(message)
        if image.shape[1::-1] != size:
            found = f"{image.shape[1]}x{image.shape[0]} in its data"
            raise UnusableMessage("image_size", f"image: wanted {size[0]}x{size[1]}, found {found}")
        return image, camera

    def _camera_for(self, frame_id: str, width: int, height: int) -> Camera:
        try:
            camera: Camera = self._cameras.camera_for(frame_id, width, height)
        except UnusableMessage as error:
            raise UnusableMessage(error.reason, f"{error} ({self._camera_info_sources()})") from None
        topic, lens = self._image.topic_name, camera.D.tolist()
        mistaken = any(lens) and RECTIFIED.search(topic)
        text = (
            f"{topic}: its name says rectified, camera_info says D = {lens}: wanted the raw image's topic, "
        )
        text += "or a camera_info with an empty D and K from P"
        self._health.warn("rectified", text if mistaken else "")
        return camera

    def silence(self, seconds: float) -> str:
        """Say why no image may have come for so long."""
        topic = self._image.topic_name
        publishers = self._node.get_publishers_info_by_topic(topic)
        return explain_silence(topic, self._image.msg_type, seconds, self._reliable, publishers)

    def _camera_info_sources(self) -> str:
        return self._sources(self._infos.topic_name)

    def _depth_sources(self) -> str:
        return self._sources(self._depths.topic_name)

    def _sources(self, topic: str) -> str:
        publishers = self._node.get_publishers_info_by_topic(topic)
        return f"{topic}: " + (", ".join(describe(info) for info in publishers) or "nobody publishes there")
