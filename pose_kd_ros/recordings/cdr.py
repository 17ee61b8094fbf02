# SPDX-License-Identifier: Apache-2.0
"""Recorded bytes to messages, without ROS: field names are those of the .msg files."""

from __future__ import annotations

import functools

from ..core.sensor_messages import UnusableMessage
from .bags import RawMessage

# vision_msgs 4 (Humble and later); the older ones of Foxy and Galactic are laid out otherwise.
VISION = {
    "ObjectHypothesis": "string class_id\nfloat64 score",
    "ObjectHypothesisWithPose": "vision_msgs/ObjectHypothesis hypothesis\n"
    "geometry_msgs/PoseWithCovariance pose",
    "BoundingBox3D": "geometry_msgs/Pose center\ngeometry_msgs/Vector3 size",
    "Detection3D": "std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\n"
    "vision_msgs/BoundingBox3D bbox\nstring id",
    "Detection3DArray": "std_msgs/Header header\nvision_msgs/Detection3D[] detections",
}


@functools.lru_cache(maxsize=1)
def typestore():
    """The messages of Humble, which are those of every later distribution, and VISION."""
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.ROS2_HUMBLE)
    for name, text in VISION.items():
        store.register(get_types_from_msg(text, f"vision_msgs/msg/{name}"))
    return store


def decode(message: RawMessage):
    """Return the message in ``message.data``. Raises UnusableMessage where the bytes are not one."""
    try:
        return typestore().deserialize_cdr(message.data, message.type)
    except Exception as error:  # of struct, numpy, or rosbags: no common base class
        text = f"{message.topic}: {len(message.data)} bytes are no {message.type} ({type(error).__name__})"
        raise UnusableMessage("message", text) from error


def nanoseconds(stamp) -> int:
    """Return a builtin_interfaces/Time in nanoseconds."""
    return stamp.sec * 1_000_000_000 + stamp.nanosec
