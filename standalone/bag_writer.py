# SPDX-License-Identifier: Apache-2.0
"""Images and their camera -> a rosbag2 MCAP folder, without ROS."""

import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

FRAME_ID = "camera_optical_frame"
IMAGE_TOPIC, INFO_TOPIC = "/camera/image_raw", "/camera/camera_info"
START = 1_700_000_000_000_000_000  # ns; a fixed time, so that the same frames give the same recording
ENCODINGS = {2: "mono8", 3: "bgr8"}  # by the number of an image's dimensions


@dataclass(frozen=True)
class Pinhole:
    """A camera without distortion. Pixel centres at integers."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float

    @property
    def matrix(self) -> np.ndarray:
        """K, 3x3."""
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1.0]])


def write_bag(target: Path, images: Iterable[np.ndarray], camera: Pinhole, rate: float = 25.0) -> int:
    """Writes images (uint8, HxW grey or HxWx3 BGR) and their CameraInfo; returns how many there were.

    The folder appears complete or not at all: it is written under a temporary name and renamed.

    Raises:
        ValueError: an image's size is not the camera's.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".draft-") as folder:
        draft = Path(folder, target.name)  # the files inside are named after their folder
        count = _write(draft, images, camera, rate)
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)
    return count


def _write(folder: Path, images: Iterable[np.ndarray], camera: Pinhole, rate: float) -> int:
    store = get_typestore(Stores.ROS2_HUMBLE)  # every later distribution has the same Image and CameraInfo
    types = {IMAGE_TOPIC: "sensor_msgs/msg/Image", INFO_TOPIC: "sensor_msgs/msg/CameraInfo"}
    count = 0
    with Writer(folder, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        topics = {
            name: writer.add_connection(name, kind, typestore=store, offered_qos_profiles=[reliable(10)])
            for name, kind in types.items()
        }
        for count, image in enumerate(images, start=1):
            stamp = START + round((count - 1) * 1e9 / rate)
            messages = {
                INFO_TOPIC: info(store, camera, stamp),
                IMAGE_TOPIC: picture(store, image, camera, stamp),
            }
            for name, message in messages.items():
                writer.write(topics[name], stamp, store.serialize_cdr(message, types[name]))
    return count


def reliable(depth: int) -> Qos:
    """Returns the QoS of a camera driver: reliable, so that subscribers may choose either kind."""
    never = QosTime(2147483647, 4294967295)
    policies = QosHistory.KEEP_LAST, depth, QosReliability.RELIABLE, QosDurability.VOLATILE
    return Qos(*policies, never, never, QosLiveliness.AUTOMATIC, never, False)


def header(store, stamp: int):
    time = store.types["builtin_interfaces/msg/Time"](*divmod(stamp, 1_000_000_000))
    return store.types["std_msgs/msg/Header"](time, FRAME_ID)


def picture(store, image: np.ndarray, camera: Pinhole, stamp: int):
    """Returns the Image message of one picture."""
    if image.shape[:2] != (camera.height, camera.width):
        raise ValueError(
            f"image: wanted {camera.height} x {camera.width}, found {image.shape[0]} x {image.shape[1]}"
        )
    return store.types["sensor_msgs/msg/Image"](
        header=header(store, stamp),
        height=camera.height,
        width=camera.width,
        encoding=ENCODINGS[image.ndim],
        is_bigendian=0,
        step=image.strides[0],
        data=np.ascontiguousarray(image).reshape(-1),
    )


def info(store, camera: Pinhole, stamp: int):
    """Returns the CameraInfo message of an undistorted camera."""
    k = camera.matrix
    return store.types["sensor_msgs/msg/CameraInfo"](
        header=header(store, stamp),
        height=camera.height,
        width=camera.width,
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=k.reshape(-1),
        r=np.eye(3).reshape(-1),
        p=np.c_[k, np.zeros(3)].reshape(-1),
        binning_x=0,
        binning_y=0,
        roi=store.types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False),
    )
