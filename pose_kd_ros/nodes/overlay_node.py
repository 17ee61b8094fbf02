# SPDX-License-Identifier: Apache-2.0
"""Draws detections, or people's keypoints, into the images they were found in.

    ros2 launch pose_kd_ros pose.launch.py overlay:=true ...

Images (topic image) wait for detections (topic detections) or keypoints (topic keypoints) of the same stamp;
frames that the pose node dropped are never drawn. Which keypoints there are, and which to join, comes on
topic objects. Detections in another frame than the image's are carried there by TF. Publishes ~/overlay,
rgb8, best effort.
"""

from __future__ import annotations

import json
import sys

import numpy as np
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import String
from vision_msgs.msg import Detection3D, Detection3DArray

from ..core.camera import Camera
from ..core.object_model import box_corners
from ..core.pose import inverse, transform
from ..core.sensor_messages import UnusableMessage, decode_pose
from ..pipeline.draw import draw_pose, draw_skeleton
from .cameras import CameraLatch
from .decode_messages import image_to_rgb
from .encode_messages import array_to_image
from .entry import spin
from .keypoints import from_cloud
from .outputs import LATCHED
from .parameters import CHOICES, UnusableParameter
from .transform_buffer import TransformBuffer

KEPT = 30  # images that wait for their detections: one second, about 28 MB at 640x480


class StampMatcher:
    """Pairs two streams by equal stamps; at most ``kept`` messages of each wait, the newest.

    A stamp that goes back empties it, so a bag that loops cannot pair its rounds.
    """

    def __init__(self, kept: int = KEPT):
        self._kept = kept
        self._waiting: tuple[dict, dict] = ({}, {})  # dicts keep their order

    def put(self, stream: int, stamp: tuple[int, int], message):
        """Return the message of the other stream with this stamp, or None and let this one wait.

        stream: 0 or 1. stamp: (seconds, nanoseconds).
        """
        own, other = self._waiting[stream], self._waiting[1 - stream]
        if own and stamp < next(reversed(own)):
            self._clear(before=None)
        if stamp in other:
            partner = other[stamp]
            self._clear(before=stamp)
            return partner
        own[stamp] = message
        if len(own) > self._kept:
            del own[next(iter(own))]
        return None

    def _clear(self, before: tuple[int, int] | None) -> None:
        """Let go of all that waits, or of what is not newer than a stamp."""
        for waiting in self._waiting:
            for key in [key for key in waiting if before is None or key <= before]:
                del waiting[key]


class OverlayNode(Node):
    """See the module's text."""

    def __init__(self, **kwargs):
        super().__init__("overlay_node", **kwargs)
        text = "Reliability asked of the image publisher: best_effort (matches any) or reliable."
        self.declare_parameter(
            "reliability", "best_effort", ParameterDescriptor(description=text, read_only=True)
        )
        found = self.get_parameter("reliability").value
        if found not in CHOICES["reliability"]:
            wanted = ", ".join(CHOICES["reliability"])
            raise UnusableParameter(f"reliability: wanted one of {wanted}, found {found!r}")
        qos = QoSProfile(depth=5, reliability=ReliabilityPolicy[found.upper()])
        self._matcher, self._cameras = StampMatcher(), CameraLatch()
        self._skeleton: dict = {"keypoints": [], "links": []}
        self._frames: TransformBuffer | None = None  # made when it is needed
        self._overlay = self.create_publisher(Image, "~/overlay", qos_profile_sensor_data)
        self.create_subscription(Image, "image", self._on_image, qos)
        self.create_subscription(CameraInfo, "camera_info", self._cameras.put, qos)
        self.create_subscription(Detection3DArray, "detections", self._on_found, 10)
        self.create_subscription(PointCloud2, "keypoints", self._on_found, 10)
        self.create_subscription(String, "objects", self._on_objects, LATCHED)

    def _on_image(self, image: Image) -> None:
        found = self._matcher.put(0, _key(image), image)
        if found is not None:
            self._draw(image, found)

    def _on_found(self, found: Detection3DArray | PointCloud2) -> None:
        image = self._matcher.put(1, _key(found), found)
        if image is not None:
            self._draw(image, found)

    def _on_objects(self, table: String) -> None:
        try:
            self._skeleton = checked_skeleton(json.loads(table.data).get("people", self._skeleton))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            text = f"objects: wanted the table of a pose node, found {table.data[:80]!r} ({error})"
            self.get_logger().warning(text, throttle_duration_sec=5.0)

    def _draw(self, image: Image, found: Detection3DArray | PointCloud2) -> None:
        if not self._overlay.get_subscription_count():
            return
        try:
            picture = np.array(image_to_rgb(image))
            if isinstance(found, PointCloud2):
                draw_people(picture, from_cloud(found), self._skeleton)
            else:
                camera = self._cameras.camera_for(image.header.frame_id, image.width, image.height)
                to_camera = self._to_camera(image, found)
                for detection in found.detections:
                    if detection.results:
                        self._draw_one(picture, camera, detection, to_camera)
        except UnusableMessage as error:
            self.get_logger().warning(f"nothing drawn: {error}", throttle_duration_sec=5.0)
            return
        self._overlay.publish(array_to_image(picture, "rgb8", image.header))

    def _to_camera(self, image: Image, found: Detection3DArray) -> np.ndarray:
        """T_camera_frame (4, 4) of the frame that the detections are in. Raises UnusableMessage."""
        if found.header.frame_id in ("", image.header.frame_id) or not found.detections:
            return np.eye(4)
        if self._frames is None:
            self._frames = TransformBuffer(self, self.get_logger().warning)
        return self._frames.lookup(image.header.frame_id, found.header.frame_id, image.header.stamp)

    def _draw_one(
        self, picture: np.ndarray, camera: Camera, detection: Detection3D, to_camera: np.ndarray
    ) -> None:
        try:
            draw_detection(picture, camera, detection, to_camera)
        except ValueError as error:  # a quaternion of zeros, as detectors send that know no rotation
            name = detection.results[0].hypothesis.class_id
            self.get_logger().warning(
                f"a detection of {name!r} is not drawn: {error}", throttle_duration_sec=5.0
            )


def draw_detection(image: np.ndarray, camera: Camera, detection: Detection3D, to_camera: np.ndarray) -> None:
    """Draw a Detection3D's box, axes, class, id and score into an RGB image (H, W, 3) uint8, in place.

    to_camera: T_camera_frame (4, 4) of the frame that it is in.
    """
    result = detection.results[0]
    at, box = result.pose.pose, detection.bbox.center
    pose, center = decode_pose(at.position, at.orientation), decode_pose(box.position, box.orientation)
    size = detection.bbox.size
    corners = transform(inverse(pose) @ center, box_corners((0, 0, 0), (size.x, size.y, size.z)))
    label = f"{result.hypothesis.class_id} {detection.id}  {result.hypothesis.score:.2f}"
    draw_pose(image, camera, to_camera @ pose, corners, label)


def checked_skeleton(skeleton: dict) -> dict:
    """Return the keypoints' names and the links of a skeleton, as ``keypoints.to_skeleton`` says them. Raises
    ValueError, TypeError or KeyError for any other value."""
    names = [str(name) for name in skeleton["keypoints"]]
    links = [[int(end) for end in link] for link in skeleton["links"]]
    for link in links:
        if len(link) != 2 or not 0 <= min(link) <= max(link) < len(names):
            raise ValueError(f"links: wanted pairs of indices below {len(names)}, found {link}")
    return {"keypoints": names, "links": links}


def draw_people(image: np.ndarray, seen: np.ndarray, skeleton: dict) -> None:
    """Draw the keypoints (N,) of the type ``keypoints.POINT`` into an RGB image (H, W, 3) uint8, in place.

    skeleton: what ``keypoints.to_skeleton`` says of them; keypoints that it does not know are left out.
    """
    count = len(skeleton["keypoints"])
    for person in np.unique(seen["person"]):
        own = seen[(seen["person"] == person) & (seen["keypoint"] < count)]
        points = np.full((count, 2), np.nan)
        points[own["keypoint"]] = np.stack([own["u"], own["v"]], -1)
        draw_skeleton(image, points, skeleton["links"])


def _key(message) -> tuple[int, int]:
    return message.header.stamp.sec, message.header.stamp.nanosec


def main(args=None) -> int:
    """Entry point. Returns 1 where a parameter is refused at start."""
    return spin(OverlayNode, "overlay_node", args)


if __name__ == "__main__":
    sys.exit(main())
