# SPDX-License-Identifier: Apache-2.0
"""Image to network input."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from ..bundle.manifest import InputSpec
from ..core.camera import Camera, Crop
from ..core.predictions import Correspondences


def crop_about(box: np.ndarray, spec: InputSpec) -> Crop:
    """The crop about a box (x0, y0, x1, y1) that a bundle's network is shown."""
    return Crop.around(box, spec.size, spec.margin, spec.stride, spec.aspect)


def network_input(image: np.ndarray, crop: Crop, spec: InputSpec) -> np.ndarray:
    """Cut ``crop`` out of an RGB image (H, W, 3) uint8 and normalise it: (1, 3, h, w)
    float32, ready for the network."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image: wanted (H, W, 3) uint8 RGB, found {image.shape} {image.dtype}")
    pixels = crop.apply(image)
    planes = cv2.split(pixels if spec.channels == "rgb" else pixels[..., ::-1])
    out = np.empty((1, 3, crop.height, crop.width), np.float32)
    for plane, mean, std, target in zip(planes, spec.mean, spec.std, out[0]):
        np.multiply(plane, np.float32(1 / (255 * std)), out=target)
        target -= np.float32(mean / std)
    return out


def in_full_image(correspondences: Correspondences, crop: Crop, camera: Camera) -> Correspondences:
    """The same in undistorted pixels of the full image; how a lens bends the covariances is left out."""
    image, covariance = camera.undistort(crop.to_full(correspondences.image)), correspondences.covariance
    covariance = None if covariance is None else covariance / crop.scale**2
    return replace(correspondences, image=image, covariance=covariance)
