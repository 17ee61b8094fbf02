# SPDX-License-Identifier: Apache-2.0
"""Fit a bundle's covariances (see ``core.uncertainty``) on held-out images, and measure their coverage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from scipy.optimize import minimize

from pose_kd_ros.core.metrics import mahalanobis_radius
from pose_kd_ros.core.object_model import ObjectModel
from pose_kd_ros.core.uncertainty import stated_covariance
from pose_kd_ros.evaluation.matching import FOUND, ObjectMatches, matched

LEAST_FOUND = 20  # errors; a fit to fewer means nothing
COVERED = 0.95  # share of the errors that shall lie in the ellipsoid of that share
FREEDOM = 4.0  # degrees of freedom of the fitted t distribution: errors have long tails
START = (1.0, 0.02, 0.02, 0.05)  # initial scale and shared
LEAST, MOST = 1e-4, 1e4


def restated(
    groups: list[ObjectMatches], objects: Mapping[int, ObjectModel], scale: float, shared: list[float]
) -> list[ObjectMatches]:
    """Return the matches with covariances that are scaled and widened by ``scale`` and ``shared``."""
    return [
        replace(
            group,
            covariance=np.reshape(
                [
                    stated_covariance(covariance - unknown_turns(pose, model), pose, model, scale, shared)
                    for covariance, pose in zip(group.covariance, group.pose)
                ],
                (-1, 6, 6),
            ),
        )
        for group, model in ((group, objects[group.object_id]) for group in groups)
    ]


def unknown_turns(pose: np.ndarray, model: ObjectModel) -> np.ndarray:
    """Return the part (6, 6) of a stated covariance that comes from the model's axes of symmetry alone."""
    return stated_covariance(np.zeros((6, 6)), pose, model)


def fit_uncertainty(
    groups: list[ObjectMatches], objects: Mapping[int, ObjectModel]
) -> tuple[float, list[float]]:
    """Return ``covariance_scale`` and ``covariance_shared`` for matches with the covariances of refinement.

    The maximum likelihood fit of a t distribution to the errors of the found instances; then all four are
    scaled so that the share COVERED of the errors lies in that ellipsoid. 1 and zeros if fewer than
    LEAST_FOUND were found.
    """
    errors = found_errors(groups)[0]
    if len(errors) < LEAST_FOUND:
        return 1.0, [0.0, 0.0, 0.0]

    def loss(logarithms: np.ndarray) -> float:
        scale, *shared = np.exp(np.clip(logarithms, np.log(LEAST), np.log(MOST)))
        covariances = found_errors(restated(groups, objects, scale, shared))[1]
        tails = (FREEDOM + 6) * np.log1p(squared_lengths(errors, covariances) / FREEDOM)
        return float(np.mean(np.linalg.slogdet(covariances)[1] + tails))

    fitted = minimize(loss, np.log(START), method="Nelder-Mead", options={"maxfev": 200})
    scale, *shared = np.exp(np.clip(fitted.x, np.log(LEAST), np.log(MOST)))
    squares = squared_lengths(*found_errors(restated(groups, objects, scale, shared)))
    wider = float(np.quantile(squares, COVERED) / mahalanobis_radius(COVERED))
    return rounded(scale * wider), [rounded(value * np.sqrt(wider)) for value in shared]


def rounded(value: float) -> float:
    return float(f"{value:.4g}")


def coverage(groups: list[ObjectMatches], share: float = COVERED) -> float:
    """Return the share of the found instances' errors inside the ellipsoid of this share; NaN without any."""
    errors, covariances = found_errors(groups)
    if not len(errors):
        return float("nan")
    return float((squared_lengths(errors, covariances) < mahalanobis_radius(share)).mean())


def found_errors(groups: list[ObjectMatches]) -> tuple[np.ndarray, np.ndarray]:
    """Return the found instances' errors (N, 6) and the covariances (N, 6, 6) that were stated for them."""
    errors, covariances = [np.zeros((0, 6))], [np.zeros((0, 6, 6))]
    for group in groups:
        estimates, instances = matched(group, FOUND)
        errors.append(group.error[estimates, instances])
        covariances.append(group.covariance[estimates])
    return np.concatenate(errors), np.concatenate(covariances)


def squared_lengths(errors: np.ndarray, covariances: np.ndarray) -> np.ndarray:
    """Return squared Mahalanobis distances (N,) of errors (N, 6)."""
    return np.einsum("ni,ni->n", errors, np.linalg.solve(covariances, errors[..., None])[..., 0])
