# SPDX-License-Identifier: Apache-2.0
"""What a camera does to a picture: blur, exposure, colour, noise, compression."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

Rng = np.random.Generator


def camera_effects(
    image: np.ndarray, rng: Rng, grey_probability: float = 0.3, strength: float = 1.0
) -> np.ndarray:
    """Return the image (H, W, 3) uint8 RGB as a random camera would take it; same shape and type.

    strength: 0..1, scales what removes detail: the length of blurs, and how often motion and compression
    occur.
    """
    image = _blur(image, rng, strength)
    image = _tone(image, rng)
    if rng.random() < grey_probability:
        image = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
        image = _noise(image, rng, coloured=False)
    else:
        image = _noise(_saturation(image, rng), rng, coloured=rng.random() < 0.6)
    return _compressed(image, rng) if rng.random() < 0.3 * strength else image


def _blur(image: np.ndarray, rng: Rng, strength: float) -> np.ndarray:
    if rng.random() < 0.6:
        sigma = strength * rng.exponential(0.6) + 0.3
        image = cv2.GaussianBlur(image, (0, 0), min(sigma, 3.0 * strength))
    if rng.random() < 0.2 * strength:
        image = cv2.filter2D(image, -1, _motion(strength * rng.uniform(2, 11), rng.uniform(0, np.pi)))
    if rng.random() < 0.1:
        image = cv2.addWeighted(image, 1.6, cv2.GaussianBlur(image, (0, 0), 1.2), -0.6, 0)
    return image


def _motion(length: float, angle: float) -> np.ndarray:
    """Return the kernel of a straight movement of `length` pixels."""
    size = int(length) // 2 * 2 + 3
    kernel = np.zeros((size, size), np.float32)
    middle, half = size // 2, length / 2 * np.array([np.cos(angle), np.sin(angle)])
    (x0, y0), (x1, y1) = ([round(16 * float(v)) for v in middle + sign * half] for sign in (-1, 1))
    cv2.line(kernel, (x0, y0), (x1, y1), 1.0, 1, cv2.LINE_AA, 4)
    return kernel / kernel.sum()


def _tone(image: np.ndarray, rng: Rng) -> np.ndarray:
    """Apply exposure, contrast, gamma and white balance by one table, then a vignette."""
    levels = np.linspace(0, 1, 256)[:, None] * np.ones(3)
    gain = np.exp(rng.normal(0, 0.22)) * (1 + rng.normal(0, 0.06, 3))
    levels = np.clip(levels * gain, 0, 1) ** np.exp(rng.normal(0, 0.22))
    black, contrast = (rng.uniform(0, 0.12), rng.uniform(0.7, 1.0)) if rng.random() < 0.4 else (0.0, 1.0)
    table = np.clip(255 * (black + (1 - black) * contrast * levels), 0, 255)
    image = cv2.LUT(image, table.astype(np.uint8)[None])
    if rng.random() < 0.3:
        strength = int(rng.uniform(0.1, 0.5) * 8)
        image = cv2.multiply(image, _vignette(image.shape[0], image.shape[1], strength), dtype=cv2.CV_8U)
    return image


@lru_cache(maxsize=16)
def _vignette(height: int, width: int, strength: int) -> np.ndarray:
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    fall = 1 - strength / 8 * (x * x + y * y) / 2
    return np.repeat(fall[..., None], 3, 2).astype(np.float32)


def _saturation(image: np.ndarray, rng: Rng) -> np.ndarray:
    if rng.random() < 0.5:
        return image
    share = rng.uniform(0.3, 1.4)
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(image, share, grey, 1 - share, 0)


@lru_cache(maxsize=1)
def _noise_bank() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((1400, 1800, 3), dtype=np.float32)


def _noise(image: np.ndarray, rng: Rng, coloured: bool) -> np.ndarray:
    """Add read-out and photon noise of variance a + b x brightness; its normal numbers are cut from one fixed
    array."""
    height, width = image.shape[:2]
    bank = _noise_bank()
    unit: np.ndarray
    if height > bank.shape[0] or width > bank.shape[1]:
        unit = rng.standard_normal((height, width, 3), dtype=np.float32)
    else:
        y, x = rng.integers(bank.shape[0] - height + 1), rng.integers(bank.shape[1] - width + 1)
        unit = bank[y : y + height, x : x + width]
    if rng.random() < 0.4:
        unit = cv2.GaussianBlur(unit, (3, 3), 0.7)
    if not coloured:
        unit = np.repeat(unit[..., :1], 3, 2)
    read, photon = rng.exponential(2.0), rng.exponential(0.12)
    table = np.sqrt(read**2 + photon * np.arange(256)).astype(np.float32)
    return cv2.add(cv2.multiply(unit, cv2.LUT(image, table)), image, dtype=cv2.CV_8U)


def _compressed(image: np.ndarray, rng: Rng) -> np.ndarray:
    quality = int(rng.uniform(25, 90))
    encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    assert decoded is not None  # OpenCV wrote it
    return decoded
