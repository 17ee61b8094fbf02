# SPDX-License-Identifier: Apache-2.0
"""How sure a pose is: what the estimator saw of it, weighed into a probability.

The weights are fitted on held-out renders (logistic regression), where a pose is right if every point of the
object projects within a tenth of the object's projected diameter of where it should (MSPD, up to symmetry).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

RIGHT = 0.1  # of the projected diameter
TERMS, AGREEMENT = 6, 5  # how many terms there are, and which of them only refinement on edges knows


def evidence(
    class_score: float, support: float, cells: int, relative_sigma: float, agreement: float = math.nan
) -> np.ndarray:
    """Return the terms (TERMS,): 1, logit of the class score (mean of the best five cells), the share of
    votes that agree, log of the number of cells, log of the agreeing votes' scatter over the object's box,
    the share of the model's edge points that lie on an edge of the image (NaN: unknown)."""
    sure = min(max(class_score, 1e-3), 1 - 1e-3)
    logit = math.log(sure / (1 - sure))
    scatter = math.log(max(relative_sigma, 1e-4))
    return np.array([1.0, logit, support, math.log(max(cells, 1)), scatter, agreement])


def score_of(terms: np.ndarray, weights: Sequence[float], edge_weights: Sequence[float] = ()) -> float:
    """Return the score in [0, 1]: the fitted probability; class score times support where no weights were
    fitted. edge_weights: weights of all terms, used in place of the others where the agreement is known."""
    if len(edge_weights) and np.isfinite(terms[AGREEMENT]):
        weights = edge_weights
    if not len(weights):
        return float(_sigmoid(terms[1]) * terms[2])
    return _sigmoid(float(terms[: len(weights)] @ np.asarray(weights)))


def hoped_score(terms: np.ndarray, weights: Sequence[float]) -> float:
    """Return the most that a pose can score, however many of its edges turn out to lie on the image's."""
    return max(score_of(np.nan_to_num(terms, nan=agreement), weights) for agreement in (0.0, 1.0))


def _sigmoid(x: float) -> float:
    return (1 + math.tanh(x / 2)) / 2


def highest_score(
    class_score: float,
    cells: int,
    relative_sigma: float,
    weights: Sequence[float],
    support: float | None = None,
) -> float:
    """Return an upper bound of the score before a pose is solved or, with the share of the votes that agrees
    known (``support``), refined: however much they scatter up to ``relative_sigma``."""
    return max(
        hoped_score(evidence(class_score, share, cells, sigma), weights)
        for share in ((0.0, 1.0) if support is None else (support,))
        for sigma in (0.0, relative_sigma)
    )
