# SPDX-License-Identifier: Apache-2.0
"""Covariances that are fitted on held-out images hold what they promise on others."""

import dataclasses

import numpy as np
import pytest

from pose_kd_ros.core.object_model import ObjectModel, box_corners
from pose_kd_ros.core.pose import make_pose
from pose_kd_ros.core.uncertainty import stated_covariance
from pose_kd_ros.evaluation.matching import ObjectMatches

pytest.importorskip("torch")
from training.measure.uncertainty import coverage, fit_uncertainty, restated

CUBE = ObjectModel(
    1, "cube", 0.1, np.zeros(3), np.full(3, 0.058), box_corners(np.zeros(3), np.full(3, 0.058))
)
CLAIMED = np.diag([1e-6, 1e-6, 1e-6, 1e-4, 1e-4, 1e-4])


def matches(random, count, across, along, turn, far=0.0):
    """One instance an image, seen along z at 0.5 to 1 m, with these standard deviations of its errors; a
    share ``far`` of them three times as large."""
    groups = []
    for _ in range(count):
        distance = random.uniform(0.5, 1.0)
        error = random.normal(size=6) * [across, across, along * distance, turn, turn, turn]
        error *= 3.0 if random.rand() < far else 1.0
        pose, one = make_pose(np.eye(3), [0, 0, distance]), np.ones((1, 1))
        groups.append(
            ObjectMatches(
                object_id=1,
                mssd=0.1 * one,
                mspd=one,
                add=one,
                adds=one,
                shift=one,
                turn=one,
                error=error[None, None],
                covariance=CLAIMED[None],
                pose=pose[None],
                scores=np.ones(1),
                evidence=np.ones((1, 5)),
                right=np.ones(1, bool),
                is_target=np.ones(1, bool),
            )
        )
    return groups


@pytest.mark.parametrize("far", [0.0, 0.1])
def test_depth_that_is_far_worse_than_stated_is_learnt(far):
    random, objects = np.random.RandomState(0), {1: CUBE}
    fitted = fit_uncertainty(matches(random, 400, 0.003, 0.03, 0.05, far), objects)
    fresh = matches(random, 1000, 0.003, 0.03, 0.05, far)
    assert coverage(fresh) < 0.05
    assert coverage(restated(fresh, objects, *fitted)) == pytest.approx(0.95, abs=0.03)
    along = fitted[1][1]
    stated = restated(fresh[:1], objects, *fitted)[0].covariance[0]
    assert stated[2, 2] > 10 * stated[0, 0]  # depth, not everything
    assert along == pytest.approx(0.03, rel=0.8 if far else 0.35)


def test_few_errors_fit_nothing():
    few = matches(np.random.RandomState(0), 19, 0.01, 0.01, 0.1)
    assert fit_uncertainty(few, {1: CUBE}) == (1.0, [0.0, 0.0, 0.0])
    assert np.isnan(coverage([]))


def test_an_axis_of_symmetry_is_unknown_once_whatever_the_scale():
    can = ObjectModel(
        1,
        "can",
        0.1,
        CUBE.box_center,
        CUBE.box_size,
        CUBE.keypoints,
        symmetry_axes=[[[0, 0, 1], [0.02, 0, 0]]],
    )
    (group,) = matches(np.random.RandomState(0), 1, 0.01, 0.01, 0.1)
    as_solved = stated_covariance(CLAIMED, group.pose[0], can)
    (found,) = restated([dataclasses.replace(group, covariance=as_solved[None])], {1: can}, 4.0, [0.0] * 3)
    np.testing.assert_allclose(found.covariance[0], stated_covariance(CLAIMED, group.pose[0], can, 4.0))
