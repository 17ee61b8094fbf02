# SPDX-License-Identifier: Apache-2.0
"""Draws detections onto the recording's images, and writes pictures and a video."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from pose_kd_ros.core.camera import Camera
from pose_kd_ros.core.object_model import box_corners
from pose_kd_ros.core.pose import inverse, transform
from pose_kd_ros.nodes.decode_messages import image_to_rgb
from pose_kd_ros.pipeline.draw import draw_pose
from pose_kd_ros.recordings.bags import open_bag
from standalone.bag_writer import IMAGE_TOPIC
from standalone.demo.records import Found, Records

PICTURES = 20
CODEC = cv2.VideoWriter.fourcc(*"mp4v")
RATE = 25.0  # frames per second of the video


def read_images(bag: Path) -> Iterator[np.ndarray]:
    """Yields the recording's images in order, uint8 HxWx3 RGB.

    Raises:
        UnusableMessage: one has an encoding that the node cannot read either.
    """
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_HUMBLE)
    with open_bag(bag) as recording:
        for message in recording.messages([IMAGE_TOPIC]):
            yield image_to_rgb(store.deserialize_cdr(message.data, message.type))


def draw(image: np.ndarray, camera: Camera, found: list[Found] | None) -> np.ndarray:
    """Draws boxes and axes onto image (HxWx3 RGB) in place and returns it.

    found: None if the frame was never processed.
    """
    for one in found or ():
        corners = transform(inverse(one.pose) @ one.box_pose, box_corners((0, 0, 0), one.box_size))
        draw_pose(image, camera, one.pose, corners)
    names = ", ".join(f"{one.name} {one.score:.2f}" for one in found or ())
    label = "dropped" if found is None else names or "no pose"
    for corner, color in (((9, 21), (0, 0, 0)), ((8, 20), (255, 255, 255))):  # a shadow, for bright images
        cv2.putText(image, label, corner, cv2.FONT_HERSHEY_SIMPLEX, 0.5, color, 1, cv2.LINE_AA)
    return image


def write_pictures(bag: Path, camera: Camera, records: Records, folder: Path) -> None:
    """Writes overlay/frame_0000.png ... (PICTURES of them, evenly spread) and video.mp4 into folder."""
    (folder / "overlay").mkdir(parents=True, exist_ok=True)
    by_frame = {records.frame_index(stamp): found for stamp, found in records.found.items()}
    chosen = set(np.linspace(0, records.frames - 1, PICTURES).astype(int).tolist())
    video = None
    for index, image in enumerate(read_images(bag)):
        drawn = cv2.cvtColor(draw(np.array(image), camera, by_frame.get(index)), cv2.COLOR_RGB2BGR)
        size = drawn.shape[1::-1]
        video = video or cv2.VideoWriter(str(folder / "video.mp4"), CODEC, RATE, size)
        video.write(drawn)
        if index in chosen:
            cv2.imwrite(str(folder / "overlay" / f"frame_{index:04d}.png"), drawn)
    if video:
        video.release()
