# SPDX-License-Identifier: Apache-2.0
"""Random pictures for surfaces and backgrounds: crops of photographs, and drawings made by formulas."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import cv2
import numpy as np

_SUFFIXES = {".jpg", ".jpeg", ".png"}
_HELD_OUT_SHARE = 0.15
Rng = np.random.Generator


def is_held_out(name: str) -> bool:
    """Return whether the photograph of this file name belongs to the held-out 15 % (by MD5, so
    it never changes)."""
    return int(hashlib.md5(name.encode()).hexdigest(), 16) % 1000 < 1000 * _HELD_OUT_SHARE


def load_photographs(folder: Path | None, split: str) -> list[np.ndarray]:
    """Load the photographs under `folder` as RGB uint8, longest side at most 900 px; an empty list for None.

    Raises ValueError where the folder holds no pictures of the wanted split, or one that cannot be decoded.
    """
    return [_read(path) for path in photograph_paths(folder, split)]


def photograph_paths(folder: Path | None, split: str) -> list[Path]:
    """Return the files that load_photographs reads, sorted; ValueError where there are none."""
    if folder is None:
        return []
    paths = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in _SUFFIXES)
    paths = [p for p in paths if split == "all" or is_held_out(p.name) == (split == "val")]
    if not paths:
        raise ValueError(f"{folder}: wanted pictures (*.jpg, *.png) of the split {split!r}, found none")
    return paths


def _read(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{path}: wanted a picture, found a file that cannot be decoded")
    scale = min(1.0, 900 / max(image.shape[:2]))
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(image[..., ::-1])


def photo_crop(
    rng: Rng, photos: list[np.ndarray], width: int, height: int, smallest: float = 0.2
) -> np.ndarray:
    """Return a random part of a random photograph, at least `smallest` of the largest possible, perhaps
    mirrored."""
    photo = photos[rng.integers(len(photos))]
    fit = min(photo.shape[1] / width, photo.shape[0] / height) * rng.uniform(smallest, 1.0)
    w, h = max(2, int(width * fit)), max(2, int(height * fit))
    x, y = rng.integers(photo.shape[1] - w + 1), rng.integers(photo.shape[0] - h + 1)
    crop = cv2.resize(photo[y : y + h, x : x + w], (width, height), interpolation=cv2.INTER_LINEAR)
    return crop[:, ::-1] if rng.random() < 0.5 else crop


def colour(rng: Rng) -> np.ndarray:
    """A random colour (3,) 0..255: vivid, pastel, dark or grey."""
    hsv = [rng.uniform(0, 180), 255 * rng.beta(1.0, 1.2), 255 * rng.beta(2.2, 1.2)]
    return cv2.cvtColor(np.array([[hsv]]).astype(np.uint8), cv2.COLOR_HSV2RGB)[0, 0].astype(float)


def palette(rng: Rng, count: int) -> np.ndarray:
    """`count` colours (count, 3), either free or near one another."""
    if rng.random() < 0.7:
        return np.stack([colour(rng) for _ in range(count)])
    return np.clip(colour(rng) + rng.normal(0, 45, (count, 3)), 0, 255)


def _smooth_noise(rng: Rng, size: int, cells: int, channels: int = 1) -> np.ndarray:
    noise = rng.random((cells, cells, channels), dtype=np.float32)
    return cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC).reshape(size, size, channels)


def noise(rng: Rng, size: int) -> np.ndarray:
    """Coloured noise over several octaves."""
    cells = [int(c) for c in rng.choice([3, 6, 12, 25, 50, 100], 3, replace=False)]
    first, *finer = [_smooth_noise(rng, size, c) * (1.0 / (1 + k)) for k, c in enumerate(sorted(cells))]
    weight = sum(finer, first)
    weight = (weight - weight.min()) / max(float(np.ptp(weight)), 1e-6)
    a, b = palette(rng, 2)
    return a + (b - a) * weight


def stripes(rng: Rng, size: int) -> np.ndarray:
    """Bands at any angle, sharp or soft; wood-like where they are bent."""
    angle, period = rng.uniform(0, np.pi), size / rng.uniform(2, 14)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    phase = (x * np.cos(angle) + y * np.sin(angle)) / period
    phase = phase + rng.choice([0.0, 0.0, 1.5]) * _smooth_noise(rng, size, 5)[..., 0]
    wave = np.sin(2 * np.pi * phase)
    weight = (wave > 0).astype(float) if rng.random() < 0.6 else 0.5 + 0.5 * wave
    a, b = palette(rng, 2)
    return a + (b - a) * weight[..., None]


def checker(rng: Rng, size: int) -> np.ndarray:
    """A grid of random cells: chess board, tag-like codes, mosaics."""
    cells = int(rng.integers(2, 9))
    table = palette(rng, int(rng.integers(2, 5)))
    labels = rng.integers(0, len(table), (cells, cells))
    if rng.random() < 0.4:
        labels = np.add.outer(np.arange(cells), np.arange(cells)) % 2
    return cv2.resize(table[labels], (size, size), interpolation=cv2.INTER_NEAREST)


def flat(rng: Rng, size: int) -> np.ndarray:
    """One colour, sometimes with a slow gradient or faint grain."""
    image = np.tile(colour(rng), (size, size, 1))
    if rng.random() < 0.5:
        image = image + 30 * (_smooth_noise(rng, size, 3) - 0.5)
    if rng.random() < 0.5:
        image = image + rng.uniform(2, 15) * (_smooth_noise(rng, size, 90) - 0.5)
    return image


def drawing(rng: Rng, size: int) -> np.ndarray:
    """Flat shapes over a plain or cartoon ground, some outlined, some words."""
    image = np.ascontiguousarray((flat if rng.random() < 0.6 else cartoon)(rng, size))
    outline = rng.random() < 0.5
    for _ in range(rng.integers(2, 14)):
        points = (size * (rng.random(2) + rng.normal(0, 0.22, (rng.integers(3, 8), 2)))).astype(np.int32)
        fill = colour(rng).tolist()
        if rng.random() < 0.4:
            axes = tuple(int(v) for v in size * rng.uniform(0.03, 0.3, 2))
            cv2.ellipse(image, points[0].tolist(), axes, rng.uniform(0, 180), 0, 360, fill, -1, cv2.LINE_AA)
        else:
            cv2.fillPoly(image, [cv2.convexHull(points) if rng.random() < 0.6 else points], fill, cv2.LINE_AA)
            if outline:
                cv2.polylines(image, [points], True, (20, 20, 20), int(rng.integers(1, 5)), cv2.LINE_AA)
    return _words(rng, image) if rng.random() < 0.3 else image


def _words(rng: Rng, image: np.ndarray) -> np.ndarray:
    size, ink = len(image), colour(rng).tolist()
    image = np.clip(image, 0, 255).astype(np.uint8)
    for _ in range(rng.integers(1, 6)):
        text = "".join(chr(rng.integers(33, 122)) for _ in range(rng.integers(2, 9)))
        at = (int(rng.uniform(0, 0.6) * size), int(rng.uniform(0.1, 1) * size))
        scale = rng.uniform(0.4, 3) * size / 256
        cv2.putText(
            image, text, at, int(rng.integers(0, 8)), scale, ink, int(rng.integers(1, 4)), cv2.LINE_AA
        )
    return image


def lettering(rng: Rng, size: int) -> np.ndarray:
    """Print on a plain ground."""
    return _words(rng, np.ascontiguousarray(flat(rng, size)))


def cartoon(rng: Rng, size: int) -> np.ndarray:
    """Regions of flat colour with curved borders, mostly outlined, as in picture books."""
    count = int(rng.integers(3, 8))
    fields = np.ascontiguousarray(
        _smooth_noise(rng, size, int(rng.integers(3, 9)), min(count, 4)).transpose(2, 0, 1)
    )
    labels = fields.argmax(0) + 4 * (fields.max(0) > rng.uniform(0.6, 1.0))
    image = palette(rng, 8)[labels]
    if rng.random() < 0.7:
        edges = cv2.Canny(labels.astype(np.uint8) * 30, 10, 20)
        edges = cv2.dilate(edges, np.ones((2, 2), np.uint8), iterations=int(rng.integers(1, 3)))
        image[edges > 0] = rng.uniform(0, 70)
    return image


def _posterised(rng: Rng, photos: list[np.ndarray], size: int) -> np.ndarray:
    crop = cv2.medianBlur(np.ascontiguousarray(photo_crop(rng, photos, size, size)), 5)
    step = rng.choice([40, 64, 85])
    return crop // step * float(step) + step / 2


_KINDS = (
    (cartoon, 4.0),
    (drawing, 4.0),
    (flat, 2.0),
    (checker, 1.5),
    (noise, 1.5),
    (stripes, 1.2),
    (lettering, 1.0),
)


def picture(rng: Rng, photos: list[np.ndarray], size: int) -> np.ndarray:
    """One random picture, (size, size, 3) uint8 RGB."""
    if photos and rng.random() < 0.4:
        image = photo_crop(rng, photos, size, size) if rng.random() < 0.7 else _posterised(rng, photos, size)
    else:
        weights = np.array([w for _, w in _KINDS])
        image = _KINDS[rng.choice(len(_KINDS), p=weights / weights.sum())][0](rng, size)
    return _recoloured(rng, image.astype(np.float32))


def _recoloured(rng: Rng, image: np.ndarray) -> np.ndarray:
    if rng.random() < 0.3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None] * rng.uniform(0.8, 1.2, 3).astype(
            np.float32
        )
    if rng.random() < 0.35:
        low, high = sorted(rng.uniform(0, 255, 2))
        image = low + image * (max(high - low, 60) / 255)
    return np.clip(image, 0, 255).astype(np.uint8)


def block_puzzle(rng: Rng, sources: list[np.ndarray], blocks: int) -> np.ndarray:
    """A face of blocks x blocks parts of the source pictures (each (S, S, 3)), with thin dark
    seams between them."""
    size = len(sources[0])
    image = np.empty((size, size, 3), np.uint8)
    edges = np.linspace(0, size, blocks + 1).astype(int)
    seam = int(rng.integers(0, 4))
    for y0, y1 in itertools.pairwise(edges):
        for x0, x1 in itertools.pairwise(edges):
            part = np.rot90(sources[rng.integers(len(sources))], int(rng.integers(4)))
            image[y0:y1, x0:x1] = part[y0:y1, x0:x1]
            if seam:
                shade = rng.uniform(0.3, 0.9)
                cv2.rectangle(image, (x0, y0), (x1 - 1, y1 - 1), (image[y0, x0] * shade).tolist(), seam)
    return image


def _worn_edges(rng: Rng, image: np.ndarray) -> np.ndarray:
    image, size = np.ascontiguousarray(image), len(image)
    for k in range(int(rng.integers(1, 6))):
        line = image[k].mean(0) * rng.uniform(0.4, 1.0) + rng.uniform(0, 60)
        cv2.rectangle(image, (k, k), (size - 1 - k, size - 1 - k), np.clip(line, 0, 255).tolist(), 1)
    return image


def face_pictures(rng: Rng, photos: list[np.ndarray], size: int, faces: int = 6) -> np.ndarray:
    """Pictures for the sides of one object, (faces, size, size, 3) uint8, in one of several styles."""
    style = rng.choice(["free", "blocks", "one plain", "plain", "one picture"], p=[0.45, 0.25, 0.1, 0.1, 0.1])
    if style == "blocks":
        blocks = int(rng.choice([2, 2, 3, 3, 4]))
        sources = [picture(rng, photos, size) for _ in range(rng.integers(1, 7))]
        images = [block_puzzle(rng, sources, blocks) for _ in range(faces)]
    elif style == "free":
        images = [picture(rng, photos, size) for _ in range(faces)]
    elif style == "plain":
        images = [np.clip(flat(rng, size), 0, 255).astype(np.uint8) for _ in range(faces)]
    else:
        one = flat(rng, size) if style == "one plain" else picture(rng, photos, size)
        images = [np.clip(one, 0, 255).astype(np.uint8)] * faces
    if rng.random() < 0.5:
        images = [_worn_edges(rng, image) for image in images]
    return np.stack(images)
