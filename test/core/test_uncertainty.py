# SPDX-License-Identifier: Apache-2.0
"""The covariance that is published."""

import numpy as np

from pose_kd_ros.core.object_model import ObjectModel, box_corners, expand_symmetries, rotations_about
from pose_kd_ros.core.pose import from_rotation_vector, make_pose
from pose_kd_ros.core.refine import moved
from pose_kd_ros.core.uncertainty import stated_covariance

BOX = dict(box_center=np.zeros(3), box_size=np.ones(3) * 0.05, keypoints=box_corners(np.zeros(3), np.ones(3)))
PART = ObjectModel(1, "part", 0.1, **BOX)


def test_what_votes_share_is_added_across_and_along_the_line_of_sight():
    ahead = stated_covariance(
        np.eye(6) * 1e-6, make_pose(np.eye(3), [0, 0, 2.0]), PART, 4.0, (0.01, 0.02, 0.05)
    )
    np.testing.assert_allclose(
        np.diag(ahead), [4e-6 + 1e-6, 4e-6 + 1e-6, 4e-6 + 0.04**2, *[4e-6 + 0.05**2] * 3]
    )
    aside = stated_covariance(
        np.zeros((6, 6)), make_pose(np.eye(3), [2.0, 0, 0]), PART, 1.0, (0.01, 0.02, 0.0)
    )
    np.testing.assert_allclose(np.diag(aside)[:3], [0.04**2, 1e-6, 1e-6])


def test_a_bundle_without_a_fit_states_what_refinement_says():
    given = np.diag([1.0, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(stated_covariance(given, make_pose(np.eye(3), [0, 0, 1]), PART), given)


def test_a_turn_about_an_axis_of_symmetry_is_unknown_and_no_other():
    axis, offset = np.array([0, 0, 1.0]), np.array([0.02, 0, 0])
    can = ObjectModel(
        1,
        "can",
        0.1,
        **BOX,
        symmetries=expand_symmetries(continuous=[(axis, offset)]),
        symmetry_axes=[[axis, offset]],
    )
    pose = make_pose(from_rotation_vector([0.3, -0.5, 0.2]), [0.1, 0, 0.8])
    stated = stated_covariance(np.eye(6) * 1e-6, pose, can)
    values, vectors = np.linalg.eigh(stated)
    assert values[-1] > 3 and (values[:-1] < 2e-6).all()
    small = 1e-4 * vectors[:, -1] / np.linalg.norm(vectors[3:, -1])
    turned = pose @ rotations_about(axis, offset, steps=round(2 * np.pi / 1e-4))[1]
    apart = min(np.abs(moved(pose, sign * small) - turned).max() for sign in (1, -1))
    assert apart < 1e-7  # moving along that direction is turning about the axis


def test_a_scaled_object_keeps_its_axis_at_the_scaled_place():
    can = ObjectModel(1, "can", 0.1, **BOX, symmetry_axes=[[[0, 0, 1], [0.02, 0, 0]]])
    np.testing.assert_allclose(can.scaled(2.0).symmetry_axes, [[[0, 0, 1], [0.04, 0, 0]]])
