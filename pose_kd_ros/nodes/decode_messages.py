# SPDX-License-Identifier: Apache-2.0
"""ROS messages to arrays and regions; pixels are copied only if need be.

What needs no ROS is in core/sensor_messages.py; encodings unknown there go to
cv_bridge where it is installed.
"""

from __future__ import annotations

import numpy as np
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray

from ..core import sensor_messages
from ..core.sensor_messages import KNOWN, UnusableMessage
from ..pipeline.region import Region


def image_to_rgb(message: Image) -> np.ndarray:
    """Return an Image as (H, W, 3) uint8 RGB; a view where it is rgb8. Raises UnusableMessage."""
    known = message.encoding in {**sensor_messages.LAYOUTS, **sensor_messages.ORDERED}
    return sensor_messages.image_to_rgb(message) if known else _by_cv_bridge(message)


def _by_cv_bridge(message: Image) -> np.ndarray:
    """16 bit patterns, NV12 and the like: cv_bridge knows them."""
    try:
        from cv_bridge import CvBridge
    except ImportError as error:
        raise UnusableMessage(
            "encoding",
            f"image encoding: wanted one of {KNOWN}, found {message.encoding!r}; others need "
            f"cv_bridge (apt install ros-$ROS_DISTRO-cv-bridge; {error})",
        ) from error
    try:
        return np.asarray(CvBridge().imgmsg_to_cv2(message, desired_encoding="rgb8"))
    except Exception as error:  # CvBridgeError and cv2.error share no base class but this
        raise UnusableMessage(
            "encoding", f"image encoding {message.encoding!r}: cv_bridge: {error}"
        ) from error


def decode_regions(message: Detection2DArray, ids: dict[str, int]) -> list[Region]:
    """Return the boxes of a Detection2DArray as regions; unknown classes are left out.

    ids: object ids by class name. A box without a class is a region for any. A box's rotation is ignored, and
    so is a box without an extent. Raises UnusableMessage for one that is not finite or has a negative extent.
    """
    regions = []
    for detection in message.detections:
        names = [result.hypothesis.class_id for result in detection.results]
        known = [ids[name] for name in names if name in ids]
        center, width, height = detection.bbox.center.position, detection.bbox.size_x, detection.bbox.size_y
        if (known or not names) and not (width == 0 or height == 0):
            box = np.array(
                [center.x - width / 2, center.y - height / 2, center.x + width / 2, center.y + height / 2]
            )
            try:
                regions.append(Region(box, known[0] if known else None))
            except ValueError as error:
                raise UnusableMessage("regions", f"regions: {error}") from error
    return regions
