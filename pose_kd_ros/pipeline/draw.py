# SPDX-License-Identifier: Apache-2.0
"""Poses drawn into a picture: the object's box, its axes, and a label;
skeletons of people. No ROS, no window."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import ArrayLike

from ..core.camera import Camera
from ..core.pose import transform

AXES_RGB = ((230, 60, 60), (60, 200, 60), (80, 120, 255))
BOX_RGB = (255, 200, 40)
# Of the corners as core's box_corners orders them.
EDGES = [(a, b) for a in range(8) for b in range(a + 1, 8) if bin(a ^ b).count("1") == 1]
Color = tuple[int, int, int]
STEPS = 8  # pieces of a line: distortion bends it


def draw_pose(
    image: np.ndarray,
    camera: Camera,
    pose: ArrayLike,
    corners: ArrayLike,
    label: str = "",
    color: Color = BOX_RGB,
    axes: bool = True,
) -> None:
    """Draw one object into an RGB image (H, W, 3) uint8, in place.

    pose: T_camera_object (4, 4). corners: its box (8, 3) in the object frame, as ``box_corners`` orders it.
    axes: also the object's own. Parts behind the camera are left out.
    """
    corners = np.asarray(corners, float)
    for a, b in EDGES:
        draw_line(image, camera, pose, corners[a], corners[b], color)
    length = np.ptp(corners, axis=0).max() * 0.75
    for axis, rgb in zip(np.eye(3), AXES_RGB) if axes else ():
        draw_line(image, camera, pose, np.zeros(3), axis * length, rgb, 2)
    if label:
        draw_label(image, camera, pose, corners, label, color)


def draw_skeleton(
    image: np.ndarray, points: ArrayLike, links: Iterable[tuple[int, int]], color: Color = BOX_RGB
) -> None:
    """Draw one person into an RGB image (H, W, 3) uint8, in place.

    points: (K, 2) raw pixels, NaN for keypoints that are not seen. links: pairs of indices to join.
    """
    points = np.asarray(points, float)
    seen = np.isfinite(points).all(1) & (np.abs(points) < 1e4).all(1)
    thickness = max(1, image.shape[0] // 300)
    for a, b in links:
        if seen[a] and seen[b]:
            cv2.line(image, _pixel(points[a]), _pixel(points[b]), color, thickness, cv2.LINE_AA)
    for point in points[seen]:
        cv2.circle(image, _pixel(point), 2 * thickness, AXES_RGB[1], -1, cv2.LINE_AA)


def draw_line(
    image: np.ndarray,
    camera: Camera,
    pose: ArrayLike,
    start: ArrayLike,
    end: ArrayLike,
    color: Color,
    thickness: int = 1,
) -> None:
    """Draw the straight line between two points (3,) of the object frame, bent as the lens bends it."""
    share = np.linspace(0, 1, STEPS + 1)[:, None]
    pixels = camera.project(transform(pose, start + share * (np.asarray(end) - start)))
    for a, b in itertools.pairwise(pixels):
        if np.isfinite([a, b]).all() and np.abs([a, b]).max() < 1e4:
            cv2.line(image, _pixel(a), _pixel(b), color, thickness, cv2.LINE_AA)


def draw_label(
    image: np.ndarray, camera: Camera, pose: ArrayLike, corners: ArrayLike, text: str, color: Color
) -> None:
    """Write ``text`` above the box, inside the image."""
    pixels = camera.project(transform(pose, corners))
    if not np.isfinite(pixels).all():
        return
    height, width = image.shape[:2]
    scale = max(0.35, height / 1000)
    (wide, high), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    u = int(np.clip(pixels[:, 0].min(), 0, max(0, width - wide)))
    v = int(np.clip(pixels[:, 1].min() - 5, high + 2, height - 2))
    cv2.rectangle(image, (u - 1, v - high - 1), (u + wide + 1, v + below), (0, 0, 0), -1)
    cv2.putText(image, text, (u, v), cv2.FONT_HERSHEY_SIMPLEX, scale, color, 1, cv2.LINE_AA)


def _pixel(point: np.ndarray) -> tuple[int, int]:
    return round(float(point[0])), round(float(point[1]))
