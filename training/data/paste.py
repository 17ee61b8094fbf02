"""Objects of a render pasted on photographs, and pieces of photographs pasted over them: the clutter that a
renderer's tables lack. Source: Dwibedi et al., Cut, Paste and Learn, ICCV 2017."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from training.render.pictures import load_photographs, photo_crop

from .tiles import Tile

MOST_BEHIND, MOST_BEFORE = 8, 3  # pieces of photographs behind and before the objects of a pasted tile
SOFT = 3  # pixels of the seam


@dataclass(frozen=True)
class PasteConfig:
    """Whether crops are pasted on photographs."""

    share: float = 0.0
    """Share of samples that are."""
    pictures: Path | None = None
    """Folder of photographs; none of those that a validation split is rendered with."""

    def __post_init__(self):
        if not 0 <= self.share <= 1 or (self.share > 0) != (self.pictures is not None):
            raise ValueError(
                "paste: wanted a share from 0 to 1 and, if it is not 0, pictures; "
                f"found {self.share} and {self.pictures}"
            )


class Paster:
    """Tiles with all but their objects replaced; state: the photographs, read once."""

    def __init__(self, config: PasteConfig):
        self.share = config.share
        self.photographs = load_photographs(config.pictures, "train")

    def __call__(self, tile: Tile, rng: np.random.Generator) -> Tile:
        """The tile's objects before a mosaic of photographs, and pieces of others before them, whose pixels
        are no object's any more."""
        if rng.random() >= self.share:
            return tile
        height, width = tile.labels.shape
        behind = photo_crop(rng, self.photographs, width, height)
        for _ in range(rng.integers(MOST_BEHIND + 1)):
            behind = self._piece_on(behind, rng)[0]
        pixels = blended(behind, tile.pixels, tile.labels > 0)
        labels = tile.labels.copy()
        for _ in range(rng.integers(MOST_BEFORE + 1)):
            pixels, covered = self._piece_on(pixels, rng)
            labels[covered] = 0
        return replace(tile, pixels=pixels, labels=labels)

    def _piece_on(self, pixels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A copy with a blob of another photograph somewhere, and where it is (H, W) bool."""
        height, width = pixels.shape[:2]
        covered, reach = np.zeros((height, width), np.uint8), rng.uniform(0.04, 0.2) * max(height, width)
        angle = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 9)))
        radius = reach * rng.uniform(0.5, 1.5, len(angle))
        center = rng.uniform((0, 0), (width, height))
        outline = center + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1)
        cv2.fillPoly(covered, [np.round(outline).astype(np.int32)], 1)
        photograph = photo_crop(rng, self.photographs, width, height)
        return blended(pixels, photograph, covered > 0), covered > 0


def blended(behind: np.ndarray, before: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8: ``before`` where the mask is, with a soft seam."""
    share = cv2.GaussianBlur(mask.astype(np.float32), (SOFT, SOFT), 0)[..., None]
    return (behind + share * (before.astype(np.float32) - behind)).round().astype(np.uint8)
