# SPDX-License-Identifier: Apache-2.0
"""The filter of poses, against a simulation of what it assumes."""

import numpy as np
import pytest

from pose_kd_ros.core.metrics import error_vector
from pose_kd_ros.core.motion import ALIKE, Motion, carried, corrected, standing
from pose_kd_ros.core.pose import make_pose
from pose_kd_ros.core.refine import moved

START = make_pose(np.eye(3), [0, 0, 0.6])
NOISE = np.diag([1e-6, 1e-6, 1e-5, 1e-4, 1e-4, 1e-4])


def test_a_velocity_fades():
    racing = Motion(START, np.array([1.0, 0, 0, 0, 0, 2.0]), np.eye(12) * 1e-6)
    later = carried(racing, 0.2, 0.1)
    assert later.pose[0, 3] == pytest.approx(0.2 * (1 - np.exp(-1)))
    np.testing.assert_allclose(later.velocity, racing.velocity * np.exp(-1))
    turn = 0.4 * (1 - np.exp(-1))
    np.testing.assert_allclose(
        later.pose[:2, :2], [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    )


@pytest.mark.parametrize("steps", [2, 40])
def test_one_step_is_as_good_as_many(steps):
    whole = part = Motion(START, np.array([0.5, 0, -0.2, 0, 0, 0.0]), np.diag(np.arange(1.0, 13) * 1e-4))
    for _ in range(steps):
        part = carried(part, 0.3 / steps, 0.1)
    whole = carried(whole, 0.3, 0.1)
    np.testing.assert_allclose(part.pose, whole.pose, atol=1e-12)
    np.testing.assert_allclose(part.covariance, whole.covariance, rtol=1e-9, atol=1e-15)


def test_a_measurement_counts_by_its_covariance():
    """Of a fresh object one measurement is worth a seventh of the first, in each direction by itself."""
    motion = standing(START, NOISE, 0.1)
    step = np.array([1e-4, 0, 1e-4, 0, 0, 0])
    after = corrected(motion, moved(START, step), NOISE)
    np.testing.assert_allclose(error_vector(START, after.pose), step / (1 + ALIKE), atol=1e-9)
    assert np.linalg.eigvalsh(after.covariance).min() > 0


def test_what_surprises_is_followed_at_once():
    motion = standing(START, NOISE, 0.1)
    after = corrected(motion, moved(START, [0.1, 0, 0, 0, 0, 0]), NOISE)
    assert after.pose[0, 3] > 0.09
