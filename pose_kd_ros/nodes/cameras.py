# SPDX-License-Identifier: Apache-2.0
"""The camera an image was taken with: the latest CameraInfo of its frame and size, never matched by stamp."""

from __future__ import annotations

from sensor_msgs.msg import CameraInfo

from ..core.camera import Camera
from ..core.sensor_messages import UnusableMessage, info_to_camera


class CameraLatch:
    """Remembers the latest CameraInfo and turns it into a Camera once, not with every frame."""

    def __init__(self):
        # One pair, replaced as a whole: the worker reads while the subscription writes.
        self._latest: tuple[CameraInfo | None, Camera | UnusableMessage | None] = None, None

    def put(self, info: CameraInfo) -> None:
        """Take a CameraInfo from its subscription; the stamp makes no difference."""
        before, _ = self._latest
        if before is None or not _same(before, info):
            self._latest = info, _convert(info)

    def camera_for(self, frame_id: str, width: int, height: int) -> Camera:
        """Return the camera of an image.

        Raises UnusableMessage: no camera_info came, it is of another frame or size, or it is not calibrated.
        """
        info, camera = self._latest
        if not frame_id:
            raise UnusableMessage(
                "frame_id", "the image has no frame_id: its poses would be in no frame; set it in the driver"
            )
        if info is None or camera is None:
            raise UnusableMessage("camera_info_missing", "no camera_info has arrived")
        if info.header.frame_id != frame_id:
            raise UnusableMessage(
                "camera_info_frame",
                f"the image is of frame {frame_id!r}, camera_info of "
                f"{info.header.frame_id!r}: they are not of one camera",
            )
        if isinstance(camera, UnusableMessage):
            raise camera
        if (camera.width, camera.height) != (width, height):
            raise UnusableMessage(
                "camera_info_size",
                f"the image is {width}x{height}, camera_info says "
                f"{camera.width}x{camera.height}: waiting for one of the image's size",
            )
        return camera


def _convert(info: CameraInfo) -> Camera | UnusableMessage:
    try:
        return info_to_camera(info)
    except UnusableMessage as error:
        return error
    except Exception as error:  # in a callback it would end the process
        return UnusableMessage("camera_info", f"camera_info: {type(error).__name__}: {error}")


def _same(a: CameraInfo, b: CameraInfo) -> bool:
    names = ("width", "height", "distortion_model", "d", "binning_x", "binning_y", "roi")
    return (
        a.header.frame_id == b.header.frame_id
        and (a.k == b.k).all()
        and all(getattr(a, name) == getattr(b, name) for name in names)
    )
