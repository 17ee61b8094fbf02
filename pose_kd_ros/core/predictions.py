# SPDX-License-Identifier: Apache-2.0
"""What passes from a network's decoder to PnP, whatever the family."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class LocalPredictions:
    """Local predictions of one family for one image, before they are grouped into instances.

    points: (N, K, 2) pixels of the network's input, votes of N cells for the projections of K keypoints.
    scores: (N,) in [0, 1], the cells' class scores. object_index: (N,) into the bundle's object list.
    cells: (N, 2) pixels, the cells' centres. scale: (N,) pixels, the anchor size of each cell's level.
    error: (N,) diameters of the object, the scale of the votes' errors; None of networks that do not say.
    """

    points: np.ndarray
    scores: np.ndarray
    object_index: np.ndarray
    cells: np.ndarray
    scale: np.ndarray
    error: np.ndarray | None = None

    def __post_init__(self) -> None:
        n = len(self.points)
        wanted = {"scores": (n,), "object_index": (n,), "cells": (n, 2), "scale": (n,)}
        wanted |= {} if self.error is None else {"error": (n,)}
        for name, shape in wanted.items():
            if getattr(self, name).shape != shape:
                found = getattr(self, name).shape
                raise ValueError(f"LocalPredictions.{name}: wanted {shape}, found {found}")

    def select(self, index: np.ndarray) -> LocalPredictions:
        """The same predictions for a subset of cells (boolean mask or indices)."""
        error = None if self.error is None else self.error[index]
        return LocalPredictions(
            self.points[index],
            self.scores[index],
            self.object_index[index],
            self.cells[index],
            self.scale[index],
            error,
        )

    def spread(self, factors: np.ndarray) -> LocalPredictions:
        """The same, each cell's votes ``factors[object_index]`` times as far from their mean. Convention: a
        factor of 2 takes votes at 0 and 4 to -2 and 6."""
        center = self.points.mean(1, keepdims=True)
        points = center + factors[self.object_index][:, None, None] * (self.points - center)
        return replace(self, points=points)

    @property
    def weights(self) -> np.ndarray:
        """What each cell's votes count (N,): its score, over the square of its error where that is larger
        than the median one. Convention: errors 1, 2, 6 of cells with score 0.9 weigh 0.9, 0.9, 0.1."""
        if self.error is None or not len(self):
            return self.scores
        return self.scores / np.maximum(self.error / np.median(self.error), 1.0) ** 2

    def __len__(self) -> int:
        return len(self.points)


@dataclass(frozen=True)
class Correspondences:
    """One instance: pixels of the full image (undistorted with K and D) against points of the object.

    image: (M, 2) pixels. object: (M, 3) metres. weight: (M,) >= 0. score: the instance's confidence, 0 to 1.
    cell: (M,) integers, equal for the rows that one local prediction voted for; by default each its own.
    covariance: (M, 2, 2) pixels^2, positive definite, known up to a factor that all rows share; None: all
    rows are equally sure, in every direction.
    """

    object_id: int
    image: np.ndarray
    object: np.ndarray
    weight: np.ndarray
    score: float
    cell: np.ndarray = None  # type: ignore[assignment]  # __post_init__ sets it
    covariance: np.ndarray | None = None

    def __post_init__(self) -> None:
        m = len(self.image)
        if self.cell is None:
            object.__setattr__(self, "cell", np.arange(m))
        for name, shape in (("image", (m, 2)), ("object", (m, 3)), ("weight", (m,)), ("cell", (m,))):
            if getattr(self, name).shape != shape:
                raise ValueError(f"Correspondences.{name}: wanted {shape}, found {getattr(self, name).shape}")
        if self.covariance is not None:
            self._check_covariance(self.covariance, (m, 2, 2))

    @staticmethod
    def _check_covariance(c: np.ndarray, shape: tuple[int, ...]) -> None:
        if c.shape != shape:
            raise ValueError(f"Correspondences.covariance: wanted {shape}, found {c.shape}")
        if not (np.isfinite(c).all() and (np.linalg.eigvalsh(c) > 0).all()):
            raise ValueError("Correspondences.covariance: wanted finite, positive definite, found others")

    def select(self, index: np.ndarray | slice) -> Correspondences:
        """The same for a subset of rows (boolean mask, indices or slice)."""
        covariance = None if self.covariance is None else self.covariance[index]
        return Correspondences(
            self.object_id,
            self.image[index],
            self.object[index],
            self.weight[index],
            self.score,
            self.cell[index],
            covariance,
        )

    def whitening(self, usable: np.ndarray) -> np.ndarray | None:
        """Matrices (M, 2, 2) that make all residuals equally sure; None where they are so already.

        usable: (M,) bool, rows that count. Convention: residuals stay pixels, those of the usable row of
        median size. Of rows with covariances 1 I, 4 I, 16 I a residual (2, 0) becomes (4, 0), (2, 0), (1, 0).
        """
        if self.covariance is None or not usable.any():
            return None
        variance, axes = np.linalg.eigh(self.covariance)
        median = np.median(np.sqrt(variance.prod(1))[usable])
        return np.einsum("mij,mj,mkj->mik", axes, np.sqrt(median / variance), axes)


def finite_rows(image: np.ndarray, points: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Which of M rows (M,) are finite throughout: image (M, 2), points (M, 3), weight (M,)."""
    with np.errstate(all="ignore"):  # sums are as finite as their terms, and much faster than all()
        return np.isfinite(image @ np.ones(2) + points @ np.ones(3) + weight)


def distinct(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different ones (P, 3) among points (M, 3), and which of them each is (M,)."""
    keys = points @ _KEY  # sorting numbers is ten times faster than sorting rows of three
    _, first, place = np.unique(keys, return_index=True, return_inverse=True)
    if not np.array_equal(points[first[place]], points):  # two points happen to have one key
        _, first, place = np.unique(points, axis=0, return_index=True, return_inverse=True)
    return points[first], place.reshape(-1)


_KEY = np.sqrt([2.0, 3.0, 5.0])
