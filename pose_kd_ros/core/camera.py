# SPDX-License-Identifier: Apache-2.0
"""Cameras with lens distortion, and crops that feed a network.

Convention: pixel centres at integers, u right, v down; a 640 pixel wide image spans -0.5 to 639.5. Points in
front of the camera have z > 0. With fx = 500, cx = 320, no distortion, (0.1, 0, 1) m projects to u = 370.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike

DISTORTION_LENGTHS = {"plumb_bob": (4, 5), "rational_polynomial": (8, 12, 14), "equidistant": (4,)}


def project_pinhole(K: ArrayLike, points: ArrayLike) -> np.ndarray:
    """Project points (..., 3) of the camera frame by K (3, 3); returns (..., 2) pixels, NaN where z <= 0."""
    points, K = np.asarray(points, float), np.asarray(K, float)
    z = np.where(points[..., 2:] > 0, points[..., 2:], np.nan)
    return (points @ K.T)[..., :2] / z


@dataclass(frozen=True, eq=False)
class Camera:
    """A calibrated camera, as sensor_msgs/CameraInfo states it.

    K: (3, 3) without skew. D: (n,) distortion coefficients of ``model``, empty for an ideal pinhole (then the
    model does not matter). model: a key of DISTORTION_LENGTHS. width, height: pixels. Raises ValueError.
    """

    K: np.ndarray
    D: np.ndarray
    model: str
    width: int
    height: int

    def __post_init__(self) -> None:
        for name, shape in (("K", (3, 3)), ("D", (-1,))):
            array = np.array(getattr(self, name), float).reshape(shape)
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        self._check_matrix()
        lengths = DISTORTION_LENGTHS.get(self.model)
        if lengths is None:
            known = ", ".join(DISTORTION_LENGTHS)
            raise ValueError(f"camera: distortion model: wanted one of {known}, found {self.model!r}")
        if len(self.D) and len(self.D) not in lengths:
            raise ValueError(f"camera: D: wanted {lengths} values or none, found {len(self.D)}")
        if not np.isfinite(self.D).all():
            raise ValueError(f"camera: D is not finite: {self.D}")
        if self.width <= 0 or self.height <= 0:
            raise ValueError(f"camera: image size {self.width}x{self.height} must be positive")

    def _check_matrix(self) -> None:
        if not np.isfinite(self.K).all():
            raise ValueError(f"camera: K is not finite: {self.K.tolist()}")
        if self.K[0, 0] <= 0 or self.K[1, 1] <= 0:
            found = f"fx = {self.K[0, 0]:g}, fy = {self.K[1, 1]:g}"
            raise ValueError(f"camera: not calibrated: wanted fx, fy > 0, found {found}")
        if np.abs(self.K[[0, 1, 2, 2], [1, 0, 0, 1]]).max() > 1e-9 or self.K[2, 2] != 1:
            raise ValueError(f"camera: wanted fx, 0, cx; 0, fy, cy; 0, 0, 1 as K, found {self.K.tolist()}")

    def project(self, points: ArrayLike) -> np.ndarray:
        """Project points (..., 3) in the camera frame, metres, to (..., 2) pixels of the real image.

        NaN where z <= 0. A polynomial model may fold points far outside the image back into it.
        """
        points = np.asarray(points, float)
        pixels = project_pinhole(self.K, points)
        ahead = np.isfinite(pixels).all(-1)
        if len(self.D) and ahead.any():
            pixels[ahead] = self._distort(points[ahead])
        return pixels

    def undistort(self, pixels: ArrayLike) -> np.ndarray:
        """Map pixels (N, 2) of the real image to (N, 2) pixels an ideal pinhole with the same K would see.

        NaN for a pixel that no ray of the model reaches (a vote far outside the image can be one).
        """
        pixels = np.asarray(pixels, float).reshape(-1, 2)
        if not len(self.D) or not len(pixels):
            return pixels.copy()
        ideal = self._start(pixels)
        for _ in range(8):
            ideal = ideal + self._newton_step(ideal, pixels)
        missed = np.linalg.norm(self._distort(self._to_rays(ideal)) - pixels, axis=1)
        return np.where((missed < 0.01)[:, None], ideal, np.nan)

    def rays(self, pixels: ArrayLike) -> np.ndarray:
        """Return directions (N, 3) with z = 1, in the camera frame, of pixels (N, 2) of the real image."""
        return self._to_rays(self.undistort(pixels))

    def _to_rays(self, ideal: np.ndarray) -> np.ndarray:
        return np.c_[(ideal - self.K[:2, 2]) / self.K[[0, 1], [0, 1]], np.ones(len(ideal))]

    def _distort(self, points: np.ndarray) -> np.ndarray:
        project = cv2.fisheye.projectPoints if self.model == "equidistant" else cv2.projectPoints
        points = np.ascontiguousarray(points).reshape(-1, 1, 3)
        return project(points, np.zeros(3), np.zeros(3), self.K, self.D)[0].reshape(-1, 2)

    def _start(self, pixels: np.ndarray) -> np.ndarray:
        undistort = cv2.fisheye.undistortPoints if self.model == "equidistant" else cv2.undistortPoints
        return undistort(pixels[:, None], self.K, self.D, P=self.K).reshape(-1, 2)

    def _newton_step(self, ideal: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        """OpenCV stops after 5 fixed-point sweeps, pixels short at a wide lens's rim."""
        step = 1e-3
        here, right, down = (self._distort(self._to_rays(ideal + d)) for d in ((0, 0), (step, 0), (0, step)))
        jacobian = np.stack([right - here, down - here], -1) / step
        determinant = np.linalg.det(jacobian)
        solvable = np.isfinite(determinant) & (np.abs(determinant) > 1e-6)
        jacobian[~solvable] = np.eye(2)
        return np.where(solvable[:, None], np.linalg.solve(jacobian, (pixels - here)[..., None])[..., 0], 0.0)


@dataclass(frozen=True)
class Crop:
    """An axis-aligned region of the full image, scaled to a network's input.

    left, top: the region's upper left *edge* in full pixels. scale: input pixels per full pixel.
    width, height: the input's size. border: the grey value outside the image.
    Convention: u_in = (u + 0.5 - left) * scale - 0.5, so with left = 100 and scale = 2 the pixel u = 100,
    which covers the input's first two pixels, lands between them at u_in = 0.5.
    """

    left: float
    top: float
    scale: float
    width: int
    height: int
    border: int = 0

    def __post_init__(self) -> None:
        if not np.isfinite([self.left, self.top, self.scale]).all() or self.scale <= 0:
            found = f"left {self.left}, top {self.top}, scale {self.scale}"
            raise ValueError(f"crop: wanted finite numbers and scale > 0, found {found}")
        if self.width <= 0 or self.height <= 0:
            raise ValueError(f"crop: input size {self.width}x{self.height} must be positive")

    @classmethod
    def around(
        cls, box_xyxy: Iterable[float], size: int, margin: float = 1.5, stride: int = 1, aspect: float = 1.0
    ) -> Crop:
        """The rectangle about a box (x0, y0, x1, y1), ``size`` pixels high and ``aspect`` times as wide.

        The box is enlarged to the aspect, then by ``margin``: at aspect 1 the square of its longer side. It
        keeps its size where it leaves the image. Both sides must be multiples of the network's ``stride``.
        """
        x0, y0, x1, y1 = (float(v) for v in box_xyxy)
        if not (np.isfinite([x0, y0, x1, y1]).all() and x1 > x0 and y1 > y0):
            raise ValueError(f"crop: box: wanted x0 < x1 and y0 < y1, found {(x0, y0, x1, y1)}")
        width = round(size * aspect)
        if size % stride or width % stride:
            found = f"{width}x{size}" if width != size else f"{size}"
            raise ValueError(f"crop: input size: wanted a multiple of the stride {stride}, found {found}")
        ratio = width / size
        high = max((x1 - x0) / ratio, y1 - y0) * margin
        left, top = (x0 + x1 - high * ratio) / 2 + 0.5, (y0 + y1 - high) / 2 + 0.5
        return cls(left, top, size / high, width, size)

    @classmethod
    def whole(cls, width: int, height: int, max_size: int | None = None, stride: int = 1) -> Crop:
        """The whole image, its longer side shrunk to ``max_size`` at most; padded right and below."""
        scale = min(1.0, max_size / max(width, height)) if max_size else 1.0
        size = (int(np.ceil(side * scale / stride - 1e-9)) * stride for side in (width, height))
        return cls(0.0, 0.0, scale, *size)

    def matrix(self) -> np.ndarray:
        """The (3, 3) map of homogeneous full pixels to input pixels."""
        s, (x, y) = self.scale, self.to_input((0.0, 0.0))
        return np.array([[s, 0, x], [0, s, y], [0, 0, 1.0]])

    def to_input(self, pixels: ArrayLike) -> np.ndarray:
        """Full pixels (..., 2) to input pixels."""
        return (np.asarray(pixels, float) + 0.5 - (self.left, self.top)) * self.scale - 0.5

    def to_full(self, pixels: ArrayLike) -> np.ndarray:
        """Input pixels (..., 2) to full pixels."""
        return (np.asarray(pixels, float) + 0.5) / self.scale + (self.left, self.top) - 0.5

    def camera(self, K: ArrayLike) -> np.ndarray:
        """The K (3, 3) of the input, for the full image's pinhole K."""
        return self.matrix() @ np.asarray(K, float)

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Cut the input (height, width[, C]) out of a full image (H, W[, C]); same dtype.

        Shrinking by n >= 2 first averages n x n blocks, since bilinear sampling alone would skip pixels (at
        scale 0.3, PSNR against area averaging is 34 dB instead of 29).
        """
        return warp(image, self.matrix(), self.width, self.height, self.border)


def warp(image: np.ndarray, matrix: np.ndarray, width: int, height: int, border: int = 0) -> np.ndarray:
    """Cut (height, width[, C]) out of an image (H, W[, C]) by a similarity (3, 3), full pixels to the cut's.

    Same dtype; ``border`` is the grey value outside the image. Shrinks as ``Crop.apply`` says.
    """
    shrink = int(1 / np.hypot(matrix[0, 0], matrix[1, 0]))
    if shrink >= 2:
        image, matrix = _shrunk(image, matrix, shrink)
    return cv2.warpAffine(
        image,
        matrix[:2],
        (width, height),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(border,) * 4,
    )


def _shrunk(image: np.ndarray, matrix: np.ndarray, shrink: int) -> tuple[np.ndarray, np.ndarray]:
    height, width = image.shape[:2]
    small = max(1, round(width / shrink)), max(1, round(height / shrink))
    sx, sy = width / small[0], height / small[1]
    to_full = np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1.0]])
    return cv2.resize(image, small, interpolation=cv2.INTER_AREA), matrix @ to_full
