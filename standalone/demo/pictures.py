"""Draws what was found onto the recording's pictures, and writes pictures and a video."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from pose_kd_ros.evaluation.bags import open_bag
from standalone.bag_writer import IMAGE_TOPIC
from standalone.demo.records import Found, Records

PICTURES = 20
CODEC = cv2.VideoWriter_fourcc(*"mp4v")
RATE = 25.0  # frames per second of the video
CHANNELS = {"mono8": 1, "bgr8": 3, "rgb8": 3}
SIGNS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
# A box's edges join the corners that differ in one sign.
EDGES = [(i, j) for i in range(8) for j in range(i) if np.abs(SIGNS[i] - SIGNS[j]).sum() == 2]
AXIS_COLORS = ((60, 60, 230), (60, 200, 60), (230, 120, 40))  # x red, y green, z blue, in OpenCV's BGR


def read_images(bag: Path) -> Iterator[np.ndarray]:
    """Yields the recording's pictures in order, uint8 HxWx3 BGR.

    Raises:
        ValueError: an encoding other than those in CHANNELS.
    """
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_HUMBLE)
    with open_bag(bag) as recording:
        for message in recording.messages([IMAGE_TOPIC]):
            yield to_bgr(store.deserialize_cdr(message.data, message.type))


def to_bgr(message) -> np.ndarray:
    """Returns a sensor_msgs/Image as uint8 HxWx3 BGR."""
    if message.encoding not in CHANNELS:
        wanted = ", ".join(CHANNELS)
        raise ValueError(f"encoding of {IMAGE_TOPIC}: wanted one of {wanted}, got {message.encoding}")
    channels = CHANNELS[message.encoding]
    rows = np.asarray(message.data, np.uint8).reshape(message.height, message.step)
    image = rows[:, : message.width * channels].reshape(message.height, message.width, channels)
    if message.encoding == "rgb8":
        return np.ascontiguousarray(image[..., ::-1])
    return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if channels == 1 else image.copy()


def draw(image: np.ndarray, camera: np.ndarray, found: list[Found] | None) -> np.ndarray:
    """Draws boxes and axes onto image (HxWx3) in place and returns it.

    camera: K. found: None if the frame was never processed.
    """
    for one in found or ():
        corners = project(camera, one.box_pose, SIGNS * one.box_size / 2)
        for i, j in EDGES:
            line(image, corners[i], corners[j], (0, 220, 255), 1)
        tips = project(camera, one.pose, np.vstack([np.zeros(3), np.eye(3) * one.box_size.max() * 0.75]))
        for tip, color in zip(tips[1:], AXIS_COLORS):
            line(image, tips[0], tip, color, 2)
    names = ", ".join(f"{one.name} {one.score:.2f}" for one in found or ())
    label = "dropped" if found is None else names or "no pose"
    for corner, color in (((9, 21), (0, 0, 0)), ((8, 20), (255, 255, 255))):  # a shadow, for white ground
        cv2.putText(image, label, corner, cv2.FONT_HERSHEY_SIMPLEX, 0.5, color, 1, cv2.LINE_AA)
    return image


def project(camera: np.ndarray, pose: np.ndarray, points: np.ndarray) -> np.ndarray:
    """points: Nx3 in the object's frame. Returns Nx2 pixels; what lies behind the camera becomes NaN."""
    there = points @ pose[:3, :3].T + pose[:3, 3]
    depth = np.where(there[:, 2:] > 1e-3, there[:, 2:], np.nan)
    return (there @ camera.T)[:, :2] / depth


def line(image: np.ndarray, start: np.ndarray, end: np.ndarray, color: tuple, width: int) -> None:
    """Draws a line between two points in pixels; one with a NaN is left out."""
    ends = np.stack([start, end])
    if np.isfinite(ends).all() and np.abs(ends).max() < 1e4:
        a, b = (tuple(round(float(value)) for value in point) for point in ends)
        cv2.line(image, a, b, color, width, cv2.LINE_AA)


def write_pictures(bag: Path, camera: np.ndarray, records: Records, folder: Path) -> None:
    """Writes overlay/frame_0000.png ... (PICTURES of them, evenly spread) and video.mp4 into folder."""
    (folder / "overlay").mkdir(parents=True, exist_ok=True)
    known = set(records.stamps)
    by_frame = {records.frame_index(stamp): found for stamp, found in records.found.items() if stamp in known}
    chosen = set(np.linspace(0, records.frames - 1, PICTURES).astype(int).tolist())
    video = None
    for index, image in enumerate(read_images(bag)):
        drawn = draw(image, camera, by_frame.get(index))
        size = drawn.shape[1::-1]
        video = video or cv2.VideoWriter(str(folder / "video.mp4"), CODEC, RATE, size)
        video.write(drawn)
        if index in chosen:
            cv2.imwrite(str(folder / "overlay" / f"frame_{index:04d}.png"), drawn)
    if video:
        video.release()
