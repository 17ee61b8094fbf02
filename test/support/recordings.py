# SPDX-License-Identifier: Apache-2.0
"""Recordings for tests: any messages, and a red disc that the bundle of discs takes for a ball."""

import cv2
import numpy as np
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from pose_kd_ros.core.pose import make_pose, rotation_between, to_quaternion
from pose_kd_ros.recordings.cdr import typestore
from standalone.bag_writer import Pinhole, info, picture, reliable

FRAME = "camera_optical_frame"
WIDTH, HEIGHT, FOCAL, RADIUS = 320, 240, 300.0, 0.05
CAMERA = Pinhole(WIDTH, HEIGHT, FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2)
PERIOD = 40_000_000
START = 5_000_000_000


def write(path, messages, storage=StoragePlugin.MCAP, compression=CompressionMode.NONE):
    """messages: (topic, type, stamp ns, message)."""
    store, writer = typestore(), Writer(path, version=8, storage_plugin=storage)
    writer.set_compression(compression, CompressionFormat.ZSTD)
    with writer:
        topics = {}
        for topic, kind, stamp, message in messages:
            if topic not in topics:
                topics[topic] = writer.add_connection(
                    topic, kind, typestore=store, offered_qos_profiles=[reliable(10)]
                )
            writer.write(topics[topic], stamp, store.serialize_cdr(message, kind))
    return path


def make(kind, **fields):
    """A message by its type's short name, such as geometry_msgs/Point."""
    package, name = kind.split("/")
    return typestore().types[f"{package}/msg/{name}"](**fields)


def header(stamp, frame=FRAME):
    return make(
        "std_msgs/Header",
        stamp=make("builtin_interfaces/Time", sec=stamp // 10**9, nanosec=stamp % 10**9),
        frame_id=frame,
    )


def image_at(topic, stamp, pixels, frame=FRAME, camera=CAMERA):
    """pixels: uint8, (H, W) grey or (H, W, 3) BGR."""
    message = picture(typestore(), pixels, camera, stamp)
    message.header.frame_id = frame
    return topic, "sensor_msgs/msg/Image", stamp, message


def compressed_at(topic, stamp, pixels):
    data = cv2.imencode(".png", pixels)[1].reshape(-1)
    message = make(
        "sensor_msgs/CompressedImage", header=header(stamp), format="bgr8; png compressed", data=data
    )
    return topic, "sensor_msgs/msg/CompressedImage", stamp, message


def info_at(topic, stamp, frame=FRAME, camera=CAMERA):
    message = info(typestore(), camera, stamp)
    message.header.frame_id = frame
    return topic, "sensor_msgs/msg/CameraInfo", stamp, message


def disc(u, v, radius):
    """A picture of a red disc, BGR."""
    pixels = np.full((HEIGHT, WIDTH, 3), 25, np.uint8)
    cv2.circle(pixels, (round(u * 16), round(v * 16)), round(radius * 16), (0, 0, 255), -1, cv2.LINE_AA, 4)
    return pixels


def ball_pose(u, v, radius, turn):
    """T_camera_object of the ball of such a disc; ``turn`` (3, 3) as seen along its ray."""
    z = FOCAL * RADIUS / radius
    place = np.array([(u - WIDTH / 2) * z / FOCAL, (v - HEIGHT / 2) * z / FOCAL, z])
    return make_pose(rotation_between((0, 0, 1.0), place) @ turn, place)


def path_of(count):
    """Where the disc is in each of ``count`` pictures: (u, v, radius)."""
    return [(110 + 6 * i, 120 + 2 * i, 32 + 0.5 * i) for i in range(count)]


def stamps(count):
    return [START + i * PERIOD for i in range(count)]


def disc_messages(count, topic="/camera/image_raw", infos="/camera/camera_info"):
    """A moving disc, its camera's info with every third picture only."""
    for index, (stamp, place) in enumerate(zip(stamps(count), path_of(count))):
        if infos and index % 3 == 1:
            yield info_at(infos, stamp)
        yield image_at(topic, stamp, disc(*place))


def pose_message(pose):
    point = make("geometry_msgs/Point", **dict(zip("xyz", pose[:3, 3].tolist())))
    return make("geometry_msgs/Pose", position=point, orientation=quaternion(pose))


def quaternion(pose):
    return make("geometry_msgs/Quaternion", **dict(zip("xyzw", to_quaternion(pose[:3, :3]).tolist())))


def tf_at(stamp, parent, child, pose, topic="/tf"):
    shift = make("geometry_msgs/Vector3", **dict(zip("xyz", pose[:3, 3].tolist())))
    transform = make("geometry_msgs/Transform", translation=shift, rotation=quaternion(pose))
    one = make(
        "geometry_msgs/TransformStamped",
        header=header(stamp, parent),
        child_frame_id=child,
        transform=transform,
    )
    return topic, "tf2_msgs/msg/TFMessage", stamp, make("tf2_msgs/TFMessage", transforms=[one])
