# SPDX-License-Identifier: Apache-2.0
"""The pose node's subscriptions: made when it activates, destroyed when it deactivates."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import rclpy.subscription
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from vision_msgs.msg import Detection2DArray

from ..core.camera import Camera
from ..core.sensor_messages import UnusableMessage, compressed_to_rgb, to_seconds
from ..pipeline.region import Region
from .cameras import CameraLatch
from .decode_messages import decode_regions, image_to_rgb
from .health import Health, describe, explain_silence
from .latest import Latest
from .parameters import Settings

REGIONS_AGE_S = 1.0  # regions farther than this from an image's stamp are not about it


@dataclass(frozen=True)
class Arrival:
    """An image message and when it came, on the clock of time.perf_counter."""

    message: Image | CompressedImage
    at: float

    @property
    def stamp(self) -> float:
        return to_seconds(self.message.header.stamp)


class Inputs:
    """Subscriptions of image, camera_info and regions.

    Images go to ``latest``; of the others the newest is kept.
    """

    def __init__(self, node, settings: Settings, latest: Latest, health: Health):
        self._node, self._latest, self._health = node, latest, health
        self._cameras, self._regions = CameraLatch(), None
        self._reliable = settings.reliability == "reliable"
        compressed = settings.image_transport == "compressed"
        kind, topic = (CompressedImage, "image/compressed") if compressed else (Image, "image")
        self._decode: Callable = compressed_to_rgb if compressed else image_to_rgb
        self._made: list = []  # all subscriptions, to be taken down
        try:
            self._image = self._subscribe(kind, topic, self._image_callback(), settings.reliability)
            self._infos = self._subscribe(CameraInfo, "camera_info", self._cameras.put)
            if settings.use_regions:
                self._subscribe(Detection2DArray, "regions", self._on_regions)
        except BaseException:
            self.destroy()
            raise

    def _subscribe(self, kind, topic: str, callback, reliability: str = "best_effort"):
        """Depth 1, so that a slow moment costs frames and not age; parameters can override every policy."""
        qos = QoSProfile(depth=1, reliability=ReliabilityPolicy[reliability.upper()])
        made = self._node.create_subscription(
            kind, topic, callback, qos, qos_overriding_options=QoSOverridingOptions.with_default_policies()
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

    def _on_regions(self, message: Detection2DArray) -> None:
        self._regions = message

    def read(self, arrival: Arrival, wants_camera: bool = True) -> tuple:
        """Return the RGB image and its Camera, None where it is not wanted. Raises UnusableMessage."""
        image = self._decode(arrival.message)
        if not wants_camera:
            return image, None
        try:
            camera: Camera = self._cameras.camera_for(
                arrival.message.header.frame_id, image.shape[1], image.shape[0]
            )
        except UnusableMessage as error:
            raise UnusableMessage(error.reason, f"{error} ({self._camera_info_sources()})") from None
        return image, camera

    def regions_for(self, stamp: float, ids: dict[str, int]) -> list[Region]:
        """Return the newest regions, once, if they are about an image of ``stamp``. ids: by class name."""
        message, self._regions = self._regions, None
        if message is None or abs(to_seconds(message.header.stamp) - stamp) > REGIONS_AGE_S:
            return []
        return decode_regions(message, ids)

    def silence(self, seconds: float) -> str:
        """Say why no image may have come for so long."""
        topic = self._image.topic_name
        publishers = self._node.get_publishers_info_by_topic(topic)
        return explain_silence(topic, self._image.msg_type, seconds, self._reliable, publishers)

    def _camera_info_sources(self) -> str:
        topic = self._infos.topic_name
        publishers = self._node.get_publishers_info_by_topic(topic)
        return f"{topic}: " + (", ".join(describe(info) for info in publishers) or "nobody publishes there")
