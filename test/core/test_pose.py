# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from pose_kd_ros.core.pose import (
    allocentric,
    check_pose,
    from_quaternion,
    from_rotation_vector,
    inverse,
    make_pose,
    project_to_so3,
    rotation_angle,
    rotation_between,
    to_quaternion,
    transform,
)

vectors = st.tuples(*[st.floats(-3, 3)] * 3).map(np.array)
directions = vectors.filter(lambda v: np.linalg.norm(v) > 1e-3)
rotations = vectors.map(from_rotation_vector)
poses = st.builds(make_pose, rotations, vectors)
QUARTER = from_rotation_vector([0, 0, np.pi / 2])


def test_known_pose():
    """A camera 2 m above the world's origin that looks down."""
    world_camera = make_pose(np.diag([1.0, -1, -1]), [0, 0, 2])
    np.testing.assert_allclose(transform(world_camera, [[0, 0, 1]]), [[0, 0, 1]])
    np.testing.assert_allclose(transform(inverse(world_camera), [[0, 0, 0]]), [[0, 0, 2]])


@given(poses, poses, vectors)
def test_inverse_and_composition(a, b, point):
    np.testing.assert_allclose(inverse(a) @ a, np.eye(4), atol=1e-9)
    np.testing.assert_allclose(inverse(a @ b), inverse(b) @ inverse(a), atol=1e-9)
    point = point[None]
    np.testing.assert_allclose(transform(a @ b, point), transform(a, transform(b, point)), atol=1e-9)


@given(poses)
def test_batches_equal_single_poses(pose):
    other, points = np.eye(4), np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(inverse(np.stack([pose, other]))[0], inverse(pose))
    assert transform(np.stack([pose, other]), points).shape == (2, 2, 3)
    np.testing.assert_allclose(transform(np.stack([pose, other]), points)[0], transform(pose, points))


@given(rotations)
def test_quaternions(rotation):
    quaternion = to_quaternion(rotation)
    assert quaternion[3] >= 0 and np.linalg.norm(quaternion) == pytest.approx(1)
    np.testing.assert_allclose(from_quaternion(quaternion), rotation, atol=1e-9)
    np.testing.assert_allclose(from_quaternion(-quaternion), rotation, atol=1e-9)


def test_quaternion_by_hand():
    np.testing.assert_allclose(to_quaternion(QUARTER), [0, 0, 0.5**0.5, 0.5**0.5], atol=1e-12)
    with pytest.raises(ValueError):
        from_quaternion([0, 0, 0, 0])


@given(st.floats(0, np.pi), directions, rotations)
def test_rotation_angle(angle, axis, rotation):
    turned = rotation @ from_rotation_vector(angle * axis / np.linalg.norm(axis))
    assert rotation_angle(rotation, turned) == pytest.approx(angle, abs=1e-6)
    assert rotation_angle(rotation.T @ turned) == pytest.approx(angle, abs=1e-6)


def test_projection_to_so3():
    random = np.random.default_rng(0)
    for rotation in Rotation.random(20, random_state=0).as_matrix():
        found = project_to_so3(rotation + random.normal(size=(3, 3)) * 1e-3)
        np.testing.assert_allclose(found @ found.T, np.eye(3), atol=1e-12)
        assert rotation_angle(found, rotation) < 0.01
    assert np.linalg.det(project_to_so3(np.diag([1.0, 1, -1]))) == pytest.approx(1)


@given(directions, directions)
def test_rotation_between_turns_a_onto_b_by_the_smallest_angle(a, b):
    rotation, unit = rotation_between(a, b), b / np.linalg.norm(b)
    np.testing.assert_allclose(rotation @ a / np.linalg.norm(a), unit, atol=1e-6)
    angle = np.arctan2(np.linalg.norm(np.cross(a, b)), a @ b)
    assert rotation_angle(rotation) == pytest.approx(angle, abs=1e-6)


@pytest.mark.parametrize("axis", np.eye(3))
def test_rotation_between_opposites(axis):
    np.testing.assert_allclose(rotation_between(axis, -axis) @ axis, -axis, atol=1e-12)
    np.testing.assert_allclose(rotation_between(axis, 2 * axis), np.eye(3))


@given(rotations, st.floats(-1.2, 1.2), st.floats(-1.2, 1.2))
def test_looking_elsewhere_leaves_the_allocentric_rotation(rotation, yaw, pitch):
    """An object carried around the camera, turned with the viewing ray, looks the same."""
    ahead = make_pose(rotation, [0, 0, 1.0])
    direction = from_rotation_vector([pitch, 0, 0]) @ from_rotation_vector([0, yaw, 0]) @ [0, 0, 1.0]
    swing = rotation_between([0, 0, 1.0], direction)
    aside = make_pose(swing @ rotation, direction)
    np.testing.assert_allclose(allocentric(ahead), rotation, atol=1e-9)
    np.testing.assert_allclose(allocentric(aside), rotation, atol=1e-6)


@pytest.mark.parametrize(
    "pose, words",
    [
        (np.eye(3), "grip: wanted a finite 4x4 transform, found shape \\(3, 3\\)"),
        (np.full((4, 4), np.nan), "finite"),
        (make_pose(2 * np.eye(3), np.zeros(3)), "not orthonormal"),
        (make_pose(np.diag([1.0, 1, -1]), np.zeros(3)), "not orthonormal"),
    ],
)
def test_check_pose_refuses(pose, words):
    with pytest.raises(ValueError, match=words):
        check_pose(pose, "grip")


def test_check_pose_passes():
    pose = make_pose(QUARTER, [1, 2, 3])
    np.testing.assert_array_equal(check_pose(pose.tolist()), pose)


def test_quaternions_are_those_of_the_eigenvalue_problem():
    """transforms3d solves it; half turns are where a careless closed form divides by zero."""
    from transforms3d.quaternions import mat2quat

    axes = np.concatenate([np.eye(3), -np.eye(3), np.random.default_rng(0).normal(size=(200, 3))])
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    for axis in axes:
        for angle in (0.0, 1e-9, 0.1, 2.0, np.pi - 1e-9, np.pi, np.pi + 1e-9, 6.0):
            rotation = from_rotation_vector(axis * angle)
            found, wanted = to_quaternion(rotation), np.roll(mat2quat(rotation), -1)
            assert found[3] >= 0 and abs(np.linalg.norm(found) - 1) < 1e-12
            assert abs(abs(found @ wanted) - 1) < 1e-12
            np.testing.assert_allclose(from_quaternion(found), rotation, atol=1e-9)
