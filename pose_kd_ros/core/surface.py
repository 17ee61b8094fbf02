# SPDX-License-Identifier: Apache-2.0
"""Surface codes: every bit halves what is left of an object's surface, so a pixel's bits name a point of it.

Source: Su et al., ZebraPose, CVPR 2022. The code of a surface point has BITS bits, the first for the coarsest
halving. Convention: with 16 bits the code 0b1000000000000000 = 32768 names ``points[32768]``, the first point
of the second half.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

BITS = 16


@dataclass(frozen=True)
class SurfaceCodes:
    """An object's surface by its codes.

    points: (2**BITS, 3) float32, metres in the object's frame, ordered by code. spread: (BITS + 1,) metres,
    the root mean square distance of points from the centre of those that share their first n bits.
    """

    points: np.ndarray
    spread: np.ndarray = field(init=False)
    _centers: np.ndarray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        points = np.asarray(self.points, np.float32)
        if points.shape != (1 << BITS, 3) or not np.isfinite(points).all():
            raise ValueError(f"surface codes: wanted finite {(1 << BITS, 3)} points, found {points.shape}")
        object.__setattr__(self, "points", points)
        parts = [points.reshape(1 << bits, -1, 3) for bits in range(BITS + 1)]
        centers = [part.mean(1) for part in parts]
        spread = [np.sqrt(((p - c[:, None]) ** 2).sum(-1).mean()) for p, c in zip(parts, centers)]
        object.__setattr__(self, "_centers", np.concatenate(centers))
        object.__setattr__(self, "spread", np.array(spread))

    def scaled(self, factor: float) -> SurfaceCodes:
        """The same surface ``factor`` times as large."""
        return SurfaceCodes(self.points * np.float32(factor))

    def located(self, codes: np.ndarray, sure_bits: np.ndarray) -> np.ndarray:
        """Return (M, 3) metres: the centre of all points whose codes begin with the first ``sure_bits`` (M,)
        bits of ``codes`` (M,). With all BITS sure, that point itself."""
        return self._centers[(1 << sure_bits) - 1 + (codes >> (BITS - sure_bits))]


def balanced_order(points: np.ndarray, rounds: int = 10) -> np.ndarray:
    """Return the order (2**BITS,) in which points (2**BITS, 3) are their own codes.

    BITS levels of 2-means with halves of equal size: of a part's points, those nearer to one centre than to
    the other in comparison with the rest, ``rounds`` times over; it begins across the longest axis.
    """
    order = np.arange(1 << BITS)
    for bits in range(BITS):
        parts = order.reshape(1 << bits, -1)
        order = np.take_along_axis(parts, _halved(points[parts], rounds), 1).ravel()
    return order


def _halved(parts: np.ndarray, rounds: int) -> np.ndarray:
    """Order of each part (P, N, 3) in which its two balanced clusters follow each other; returns (P, N)."""
    centered = parts - parts.mean(1, keepdims=True)
    axis = np.linalg.eigh(np.einsum("pni,pnj->pij", centered, centered))[1][:, :, -1]
    largest = np.take_along_axis(axis, np.abs(axis).argmax(1)[:, None], 1)
    axis = axis * np.sign(largest)  # an eigenvector's sign is anybody's choice
    half = parts.shape[1] // 2
    for _ in range(rounds):
        # |x - a|^2 - |x - b|^2 grows with x . (b - a): the balanced halves are those of that projection
        rank = np.argsort(np.einsum("pni,pi->pn", centered, axis), 1, kind="stable")
        sides = np.take_along_axis(centered, rank[..., None], 1)
        moved = sides[:, half:].mean(1) - sides[:, :half].mean(1)
        if np.allclose(moved, axis):
            break
        axis = moved
    return rank


def bits_of(codes: np.ndarray) -> np.ndarray:
    """Return the bits (..., BITS) bool of ``codes`` (...), the coarsest first."""
    return (np.asarray(codes)[..., None] >> np.arange(BITS - 1, -1, -1)) & 1 > 0


def codes_of(bits: np.ndarray) -> np.ndarray:
    """Return the codes (...) int64 of bits (..., BITS) bool, the coarsest first."""
    return bits @ (1 << np.arange(BITS - 1, -1, -1))
