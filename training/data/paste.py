# SPDX-License-Identifier: Apache-2.0
"""Paste a render's objects on photographs, and pieces of photographs over them: clutter that rendered tables
lack.

Source: Dwibedi et al., Cut, Paste and Learn, ICCV 2017.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from training.render.pictures import load_photographs

from .tiles import Tile

MOST_BEHIND, MOST_BEFORE = 8, 3  # pieces of photographs behind and before the objects of a pasted tile
SHRINK = (0.7, 3.0)  # pixels of a photograph to one of the tile, as far as there are so many
SOFT = 3  # pixels of the seam
REACH = (0.04, 0.3)  # of a piece, in sides of the tile
LIT, LIFTED = (0.6, 1.6), 140.0  # how far objects are relit; dark ones up to this mean of their pixels
GAMMA, CAST = (0.8, 1.4), 0.2


@dataclass(frozen=True)
class PasteConfig:
    """Whether crops are pasted on photographs."""

    share: float = 0.0
    """Share of samples that are pasted."""

    pictures: Path | None = None
    """Folder of photographs, without those that a validation split is rendered with."""

    def __post_init__(self):
        if not 0 <= self.share <= 1 or (self.share > 0) != (self.pictures is not None):
            raise ValueError(
                "paste: wanted a share from 0 to 1 and, if it is not 0, pictures, "
                f"found {self.share} and {self.pictures}"
            )


class Paster:
    """Replaces everything but the objects in tiles. The photographs are read once."""

    def __init__(self, config: PasteConfig):
        self.share = config.share
        self.photographs = load_photographs(config.pictures, "train")

    def __call__(self, tile: Tile, rng: np.random.Generator) -> Tile:
        """Return the tile with a mosaic of photographs behind its objects, and pieces of photographs before
        them. Covered pixels belong to no object."""
        if rng.random() >= self.share:
            return tile
        height, width = tile.labels.shape
        pixels, labels = photo_part(self.photographs, width, height, rng), tile.labels.copy()
        for _ in range(rng.integers(MOST_BEHIND + 1)):
            piece(pixels, self.photographs, rng)
        blend(pixels, relit(tile.pixels, labels > 0, rng), soft(labels > 0))
        for _ in range(rng.integers(MOST_BEFORE + 1)):
            where, covered = piece(pixels, self.photographs, rng)
            labels[where][covered] = 0
        return replace(tile, pixels=pixels, labels=labels)


def photo_part(
    photographs: list[np.ndarray], width: int, height: int, rng: np.random.Generator
) -> np.ndarray:
    """Return a picture (height, width, 3) from a random part of a random photograph, perhaps mirrored."""
    photo = photographs[rng.integers(len(photographs))]
    most = min(photo.shape[1] / width, photo.shape[0] / height)
    shrink = min(np.exp(rng.uniform(*np.log(SHRINK))), most)
    w, h = max(1, int(width * shrink)), max(1, int(height * shrink))
    x, y = rng.integers(photo.shape[1] - w + 1), rng.integers(photo.shape[0] - h + 1)
    how = cv2.INTER_AREA if shrink > 1 else cv2.INTER_LINEAR
    part = cv2.resize(photo[y : y + h, x : x + w], (width, height), interpolation=how)
    return np.ascontiguousarray(part[:, ::-1]) if rng.random() < 0.5 else part


def piece(pixels: np.ndarray, photographs: list[np.ndarray], rng: np.random.Generator):
    """Put a blob of a photograph somewhere into ``pixels``; return the window of them, and the mask (bool) of
    the blob in it."""
    height, width = pixels.shape[:2]
    reach = rng.uniform(*REACH) * max(height, width)
    angle = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 9)))
    radius = reach * rng.uniform(0.5, 1.5, len(angle))
    center = rng.uniform((0, 0), (width, height))
    outline = center + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1)
    outline = np.round(outline).astype(np.int32)
    low = np.clip(outline.min(0) - SOFT, 0, (width - 1, height - 1))
    high = np.clip(outline.max(0) + SOFT + 1, low + 1, (width, height))
    where = slice(low[1], high[1]), slice(low[0], high[0])
    covered = np.zeros(high[::-1] - low[::-1], np.uint8)
    cv2.fillPoly(covered, [outline - low.astype(np.int32)], 1)
    width, height = high - low
    blend(pixels[where], photo_part(photographs, width, height, rng), soft(covered > 0))
    return where, covered > 0


def soft(mask: np.ndarray) -> np.ndarray:
    """Return the coverage (H, W) uint8 of a mask (H, W) bool, with a soft edge."""
    return cv2.GaussianBlur(mask.astype(np.uint8) * 255, (SOFT, SOFT), 0)


def blend(pixels: np.ndarray, before: np.ndarray, coverage: np.ndarray) -> None:
    """Put ``before`` into ``pixels``, both (H, W, 3) uint8, weighted by coverage (H, W) uint8."""
    share = coverage[..., None].astype(np.uint16)
    pixels[:] = (pixels * (255 - share) + before * share + 127) // 255


def relit(pixels: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the picture (H, W, 3) uint8 with the masked pixels under another light: exposure, gamma and a
    colour cast.

    The renderer's lamps leave dark objects darker than a camera's exposure would.
    """
    mean = max(1.0, pixels[mask].mean()) if mask.any() else 128.0
    low, high = LIT[0] * mean, min(250.0, max(LIT[1] * mean, LIFTED))
    gain = np.exp(rng.uniform(np.log(low), np.log(high))) / mean
    gain = gain * (1 + rng.uniform(-1, 1, 3) * CAST)
    level = (np.arange(256) / 255)[:, None] * gain
    pivot = np.clip(mean / 255 * gain, 1e-3, None)  # the mean stays where it is
    curve = pivot * (level / pivot) ** np.exp(rng.uniform(*np.log(GAMMA)))
    return cv2.LUT(pixels, np.clip(255 * curve, 0, 255).round().astype(np.uint8)[:, None])
