"""The score's weights."""

import numpy as np
import pytest

pytest.importorskip("torch")

from pose_kd_ros.pipeline.confidence import confidence
from training.evaluate import fit_confidence


def test_fitted_scores_are_frequencies():
    """Of the poses scored about 0.7, about 70 % are right, on poses the fit has not seen."""
    random = np.random.RandomState(0)
    terms = np.c_[np.ones(8000), random.normal(0, 1, (8000, 4))]
    right = random.uniform(size=8000) < 1 / (1 + np.exp(-terms @ [0.3, 1.0, -0.5, 0.0, 2.0]))
    weights = fit_confidence(terms[:4000], right[:4000])
    scores = np.array([confidence(t, weights) for t in terms[4000:]])
    for low in (0.1, 0.4, 0.7):
        inside = (scores >= low) & (scores < low + 0.1)
        assert right[4000:][inside].mean() == pytest.approx(low + 0.05, abs=0.07)


def test_no_right_pose_still_gives_finite_weights():
    assert np.isfinite(fit_confidence(np.ones((5, 5)), np.zeros(5, bool))).all()
