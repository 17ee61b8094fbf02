# SPDX-License-Identifier: Apache-2.0
"""Messages of sensor_msgs to arrays and cameras; pixels are copied only if need be.

A message is whatever has the fields of the one in ROS: rclpy's, or one read from a recording without ROS.
Accepted as colour input: rgb8, bgr8, rgba8, bgra8, mono8 (8UC1), mono16 (its high byte is used), 8 bit Bayer
patterns, YUV 4:2:2, and JPEG or PNG as CompressedImage. Depth: 16UC1 (millimetres), 32FC1 (metres).
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from .camera import DISTORTION_LENGTHS, Camera
from .encoded import EncodedError, size_of
from .pose import from_quaternion, make_pose

# A pattern is named by its first two pixels in ROS, by its second row's in OpenCV.
BAYER = {
    "bayer_rggb8": cv2.COLOR_BayerBG2RGB,
    "bayer_bggr8": cv2.COLOR_BayerRG2RGB,
    "bayer_gbrg8": cv2.COLOR_BayerGR2RGB,
    "bayer_grbg8": cv2.COLOR_BayerGB2RGB,
}
YUV = {
    "yuv422": cv2.COLOR_YUV2RGB_UYVY,
    "uyvy": cv2.COLOR_YUV2RGB_UYVY,
    "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUY2,
    "yuyv": cv2.COLOR_YUV2RGB_YUY2,
}
LAYOUTS = {  # encoding: (type, channels)
    "rgb8": ("u1", 3),
    "bgr8": ("u1", 3),
    "rgba8": ("u1", 4),
    "bgra8": ("u1", 4),
    "mono8": ("u1", 1),
    "8UC1": ("u1", 1),
    **dict.fromkeys(BAYER, ("u1", 1)),
    **dict.fromkeys(YUV, ("u1", 2)),
    "mono16": ("u2", 1),
    "16UC1": ("u2", 1),
    "32FC1": ("f4", 1),
}
DEPTH = ("16UC1", "32FC1")
MILLIMETRE = 1e-3  # metres
KNOWN = ", ".join(name for name in LAYOUTS if name not in DEPTH)
NAMES = {  # sensor_msgs/distortion_models.hpp to core.camera
    "plumb_bob": "plumb_bob",
    "rational_polynomial": "rational_polynomial",
    "equidistant": "equidistant",
    "fisheye": "equidistant",
    "": "plumb_bob",
}
ORDERED = {"8UC3": "bgr8 or rgb8", "8UC4": "bgra8 or rgba8"}  # what says the order of channels, too
POLYNOMIALS = ("plumb_bob", "rational_polynomial")


class UnusableMessage(ValueError):
    """A message that cannot be used; the text says what was found and what was wanted.

    reason: one word, by which they are counted.
    """

    def __init__(self, reason: str, text: str):
        super().__init__(text)
        self.reason = reason


def image_to_array(message: Any) -> np.ndarray:
    """Return the pixels (H, W) or (H, W, C) as a view into the message, for the encodings in LAYOUTS.

    ``step`` may be longer than a row, the bytes of either order. Raises UnusableMessage.
    """
    name, channels = LAYOUTS[message.encoding]
    kind = np.dtype(("<", ">")[bool(message.is_bigendian)] + name)
    height, width, step = message.height, message.width, message.step
    used = width * channels * kind.itemsize
    if height == 0 or width == 0 or step < used or len(message.data) < height * step:
        raise UnusableMessage(
            "image_size",
            f"image: {width}x{height} {message.encoding}: wanted step >= {used} and "
            f"{height} x step bytes, found step {step} and {len(message.data)} bytes",
        )
    rows = np.frombuffer(message.data, np.uint8, height * step).reshape(height, step)[:, :used]
    shape = (height, width, channels) if channels > 1 else (height, width)
    if step % kind.itemsize:
        rows = np.ascontiguousarray(rows)
    return rows.view(kind).reshape(shape)


def image_to_rgb(message: Any) -> np.ndarray:
    """Return an Image as (H, W, 3) uint8 RGB; a view where it is rgb8. Raises UnusableMessage."""
    encoding = message.encoding
    if encoding in DEPTH:
        raise UnusableMessage(
            "encoding", f"image encoding: wanted colour or grey, found {encoding!r}, which is depth"
        )
    if encoding in ORDERED:
        wanted = f"{ORDERED[encoding]}, which say the order of channels"
        raise UnusableMessage("encoding", f"image encoding: wanted {wanted}, found {encoding!r}")
    if encoding not in LAYOUTS:
        raise UnusableMessage("encoding", f"image encoding: wanted one of {KNOWN}, found {encoding!r}")
    array = image_to_array(message)
    if encoding in YUV and message.width % 2:
        raise UnusableMessage(
            "image_size", f"image: {encoding}: wanted an even width, found {message.width}x{message.height}"
        )
    if encoding in BAYER or encoding in YUV:
        return cv2.cvtColor(np.ascontiguousarray(array), {**BAYER, **YUV}[encoding])
    if encoding == "mono16":
        array = (array >> 8).astype(np.uint8)
    return to_rgb(array, "mono8" if encoding in ("8UC1", "mono16") else encoding)


def depth_to_metres(message: Any, topic: str = "depth", kind: type = np.float32) -> np.ndarray:
    """Return a depth Image as (H, W) of a ``kind`` of float, metres along z, 0 where nothing was measured
    (REP 118: 16UC1 holds millimetres, 32FC1 metres). Raises UnusableMessage that names the ``topic``."""
    if message.encoding not in DEPTH:
        wanted = " or ".join(DEPTH)
        raise UnusableMessage("encoding", f"{topic}: wanted {wanted}, found {message.encoding}")
    values: np.ndarray = image_to_array(message).astype(kind)
    values = values * kind(MILLIMETRE) if message.encoding == "16UC1" else values
    return np.where(np.isfinite(values) & (values > 0), values, kind(0))


def to_rgb(image: np.ndarray, encoding: str = "rgb8") -> np.ndarray:
    """Return ``image`` as (H, W, 3) uint8 RGB; ``encoding`` is rgb8, bgr8, rgba8, bgra8 or mono8."""
    codes = {
        "bgr8": cv2.COLOR_BGR2RGB,
        "rgba8": cv2.COLOR_RGBA2RGB,
        "bgra8": cv2.COLOR_BGRA2RGB,
        "mono8": cv2.COLOR_GRAY2RGB,
    }
    if encoding == "rgb8":
        return image
    if encoding not in codes:
        raise ValueError(f"image encoding: wanted one of {['rgb8', *codes]}, found {encoding!r}")
    return cv2.cvtColor(image, codes[encoding])


def compressed_size(message: Any) -> tuple[int, int]:
    """Return (width, height) of a JPEG or PNG CompressedImage without decoding it. Raises UnusableMessage."""
    try:
        return size_of(bytes(message.data))
    except EncodedError as error:
        text = f"compressed image of format {message.format!r}: {error}"
        raise UnusableMessage(error.kind, text) from error


def compressed_to_rgb(message: Any) -> np.ndarray:
    """Return a JPEG or PNG CompressedImage as (H, W, 3) uint8 RGB. Raises UnusableMessage.

    An orientation in its EXIF data is not followed: camera_info is about the pixels as the sensor gave them.
    """
    size, text = compressed_size(message), "OpenCV cannot decode it"
    try:
        data = np.frombuffer(message.data, np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        image, text = None, str(error)
    if image is None or image.shape[1::-1] != size:
        found = f"compressed image of format {message.format!r}, {len(message.data)} bytes: {text}"
        raise UnusableMessage("truncated", found)
    return to_rgb(image, "bgr8")


def info_to_camera(info: Any) -> Camera:
    """Return the camera of a raw image (K and D, not P). Raises UnusableMessage.

    Convention (REP-104): K[0] = 0 or empty means not calibrated. Binning and regions of interest are refused:
    with them the image's pixels are not the ones that K speaks of.
    """
    if info.k[0] == 0:
        raise UnusableMessage(
            "uncalibrated",
            "camera_info: the camera is not calibrated (K[0] = 0); calibrate it and "
            "give its driver the result (camera_info_url)",
        )
    coefficients = np.array(info.d, float)
    if coefficients.any() and info.distortion_model not in NAMES:
        raise UnusableMessage(
            "distortion_model",
            f"camera_info: distortion model: wanted one of {', '.join(name for name in NAMES if name)}, "
            f"found {info.distortion_model!r}; or rectify the image and empty D",
        )
    if max(info.binning_x, info.binning_y) > 1 or (
        info.roi.width and (info.roi.width, info.roi.height) != (info.width, info.height)
    ):
        raise UnusableMessage(
            "binning",
            f"camera_info: wanted the full sensor, found binning {info.binning_x}x{info.binning_y} and a "
            f"region of interest of {info.roi.width}x{info.roi.height}",
        )
    try:
        if not coefficients.any():  # an ideal pinhole, whatever the model is called
            return Camera(info.k, np.zeros(0), "plumb_bob", info.width, info.height)
        coefficients, model = known_distortion(coefficients, NAMES[info.distortion_model])
        return Camera(info.k, coefficients, model, info.width, info.height)
    except ValueError as error:
        raise UnusableMessage("camera_info", f"camera_info: {error}") from error


def known_distortion(coefficients: np.ndarray, model: str) -> tuple[np.ndarray, str]:
    """Return distortion coefficients (n,) and their model as a Camera takes them.

    Drivers and tools write more zeros than a model has coefficients, and OpenCV's 8 or more under the name
    plumb_bob. Both polynomials have OpenCV's order, and are the same where the further coefficients are 0.
    """
    used = len(np.trim_zeros(coefficients, "b"))
    for name in POLYNOMIALS if model in POLYNOMIALS else (model,):
        for length in DISTORTION_LENGTHS[name]:
            if used <= length <= len(coefficients):
                return coefficients[:length], name
    if model in POLYNOMIALS and 5 < len(coefficients):  # between two lengths: the missing ones are 0
        length = next((n for n in DISTORTION_LENGTHS[POLYNOMIALS[1]] if n >= used), used)
        return np.pad(coefficients[:used], (0, length - used)), POLYNOMIALS[1]
    return coefficients, model


def to_seconds(stamp: Any) -> float:
    """Return a builtin_interfaces/Time in seconds."""
    return stamp.sec + 1e-9 * stamp.nanosec


def decode_pose(position: Any, orientation: Any) -> np.ndarray:
    """Return (4, 4) of a geometry_msgs position or translation and a quaternion. Raises ValueError."""
    rotation = from_quaternion([orientation.x, orientation.y, orientation.z, orientation.w])
    translation = [position.x, position.y, position.z]
    if not np.isfinite(translation).all():
        raise ValueError(f"position: wanted finite numbers, found {translation}")
    return make_pose(rotation, translation)
