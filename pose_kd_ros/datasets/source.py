# SPDX-License-Identifier: Apache-2.0
"""Where the bytes of a picture or a mask are: a file, or a part of a shard; and what is in them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..core.encoded import JPEG, PNG, EncodedError, size_of
from .faults import DatasetError
from .values import as_object, field, numbers, parsed


@dataclass(frozen=True)
class Source:
    """A file, or the ``size`` bytes from ``offset`` of the shard ``path``, which are its ``member``.

    It holds no open file, so that worker processes can be given it, forked or not.
    """

    path: Path
    member: str = ""
    offset: int = 0
    size: int = -1

    def __str__(self) -> str:
        return f"{self.path}:{self.member}" if self.member else str(self.path)

    def read(self, kind: str) -> bytes:
        """All bytes; DatasetError of this ``kind`` where there are none, or fewer than there should be."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                data = file.read(self.size)
        except OSError as error:
            raise DatasetError(f"{self}: cannot be read: {error.strerror}", kind) from error
        if len(data) < self.size or not data:
            wanted = self.size if self.size > 0 else "some"
            raise DatasetError(f"{self}: wanted {wanted} bytes, found {len(data)}: truncated", kind)
        return data


def decoded(source: Source, flag: int, kind: str) -> np.ndarray:
    """The image, as cv2.imdecode with ``flag`` gives it; DatasetError where it is damaged.

    A truncated JPEG or PNG is refused by its missing end, which some versions of OpenCV would fill with grey.
    """
    data = source.read(kind)
    try:
        if data.startswith((JPEG, PNG)):
            size_of(data)
    except EncodedError as error:
        raise DatasetError(f"{source}: cannot be decoded as an image: {error}", kind) from error
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    except cv2.error as error:  # a header that promises more pixels than OpenCV accepts
        raise DatasetError(f"{source}: cannot be decoded as an image: {error.err}", kind) from error
    if image is None:
        raise DatasetError(f"{source}: cannot be decoded as an image", kind)
    return image


@dataclass(frozen=True)
class Mask:
    """The visible mask of one instance: an image file, or entry ``key`` of a shard's mask_visib.json."""

    source: Source
    key: str | None = None

    def load(self) -> np.ndarray:
        """(H, W) bool; DatasetError where it is missing or damaged."""
        if self.key is None:
            values = decoded(self.source, cv2.IMREAD_UNCHANGED, "mask")  # as grey, 1 of 65535 would be 0
            return np.asarray((values > 0) if values.ndim == 2 else (values[..., :3] > 0).any(2))
        try:
            return run_lengths(field(_entries(self.source), self.key, self.source), f"{self}")
        except DatasetError as error:
            raise DatasetError(str(error), "mask") from None

    def __str__(self) -> str:
        return str(self.source) if self.key is None else f"{self.source}, instance {self.key}"


@lru_cache(maxsize=4)  # an image's masks are read one after the other and share a file
def _entries(source: Source) -> dict[str, Any]:
    return as_object(parsed(source.read("mask"), source), source)


def run_lengths(entry: Any, where: str) -> np.ndarray:
    """COCO's uncompressed run lengths -> (H, W) bool: runs of 0 and 1 in turn, 0 first, column by column.

    Convention: {"counts": [1, 2, 1], "size": [2, 2]} -> [[0, 1], [1, 0]]. DatasetError where the
    runs do not add up to the size.
    """
    height, width = (int(n) for n in numbers(entry, "size", 2, where))
    counts = field(entry, "counts", where)
    if not isinstance(counts, list):
        raise DatasetError(f"{where}: counts: wanted a list of run lengths, found {type(counts).__name__}")
    runs = numbers(entry, "counts", len(counts), where).astype(np.int64)
    if min(height, width) < 1 or (runs < 0).any() or runs.sum() != height * width:
        raise DatasetError(
            f"{where}: counts: wanted runs of {height * width} pixels in all ({height} x {width}), "
            f"found {runs.sum()}"
        )
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T
