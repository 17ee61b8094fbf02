# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pose_kd_ros.core.object_model import (
    CONTINUOUS_STEPS,
    ObjectModel,
    box_corners,
    canonical,
    expand_symmetries,
    representatives,
    rotations_about,
    symmetric_angles,
)
from pose_kd_ros.core.pose import from_rotation_vector, make_pose, rotation_angle, rotation_between, transform

CENTER, SIZE = np.zeros(3), np.full(3, 0.084)
CUBE_TURNS = make_pose(Rotation.create_group("O").as_matrix(), np.zeros((24, 3)))
CUBE_TURNS = CUBE_TURNS[np.argsort(rotation_angle(CUBE_TURNS[:, :3, :3]), kind="stable")]  # identity first
REFERENCE = from_rotation_vector([0.4, -0.6, 0.2])


def cube(symmetries=CUBE_TURNS, **change):
    known = dict(
        id=1,
        name="cube",
        diameter=0.1455,
        box_center=CENTER,
        box_size=SIZE,
        reference=REFERENCE,
        keypoints=box_corners(CENTER, SIZE),
        symmetries=symmetries,
    )
    return ObjectModel(**{**known, **change})


def some_poses(count, seed=0):
    random = np.random.default_rng(seed)
    translations = random.uniform(-0.3, 0.3, (count, 3)) + [0, 0, 0.8]
    return make_pose(Rotation.random(count, random_state=seed).as_matrix(), translations)


def same_set(a, b):
    gaps = np.abs(np.asarray(a)[:, None] - np.asarray(b)[None]).max((2, 3))
    return len(a) == len(b) and gaps.min(0).max() < 1e-6 and gaps.min(1).max() < 1e-6


def test_box_corners():
    corners = box_corners([1, 2, 3], [2, 4, 6])
    np.testing.assert_array_equal(corners[0], [0, 0, 0])
    np.testing.assert_array_equal(corners[1], [0, 0, 6])
    np.testing.assert_array_equal(corners[4], [2, 0, 0])
    np.testing.assert_array_equal(corners[7], [2, 4, 6])


def test_a_cubes_24_rotations_keep_its_box():
    corners = box_corners(CENTER, SIZE)
    assert len(CUBE_TURNS) == 24
    for turned in transform(CUBE_TURNS, corners):
        gaps = np.linalg.norm(turned[:, None] - corners[None], axis=-1)
        assert (gaps.min(1) < 1e-12).all() and (gaps.min(0) < 1e-12).all()


def test_rotations_about_keep_the_axis():
    turns = rotations_about([0, 0, 2], [0.1, 0.2, 5], 8)
    np.testing.assert_allclose(turns[0], np.eye(4), atol=1e-12)
    for height in (-1, 0, 3):
        fixed = [0.1, 0.2, height]
        np.testing.assert_allclose(transform(turns, [fixed])[:, 0], [fixed] * 8, atol=1e-12)
    np.testing.assert_allclose(transform(turns[2], [[0.2, 0.2, 0]]), [[0.1, 0.3, 0]], atol=1e-12)
    np.testing.assert_allclose(np.linalg.matrix_power(turns[1], 8), np.eye(4), atol=1e-9)


def test_bop_expansion():
    """bop_toolkit: every discrete symmetry (and none) times every step about every continuous axis."""
    flip = make_pose(np.diag([1.0, -1, -1]), np.zeros(3))
    assert expand_symmetries().shape == (1, 4, 4)
    assert expand_symmetries([flip]).shape == (2, 4, 4)
    assert same_set(expand_symmetries([np.eye(4), flip]), [np.eye(4), flip])
    axis = [([0, 0, 1], [0, 0, 0])]
    assert expand_symmetries((), axis).shape == (CONTINUOUS_STEPS, 4, 4) and CONTINUOUS_STEPS == 315
    both = expand_symmetries([flip], axis, 6)
    np.testing.assert_allclose(both[0], np.eye(4), atol=1e-12)
    turns = rotations_about([0, 0, 1], steps=6)
    assert same_set(both, [*turns, *(flip @ turns)])
    product = [a @ b for a in both for b in both]  # flip and turns about z form a group
    assert all(same_set([p], [both[np.abs(both - p).max((1, 2)).argmin()]]) for p in product)


OFF_CENTRE = expand_symmetries((), [([0, 0, 1], [0.02, 0, 0])], 6)  # each moves the origin


@pytest.mark.parametrize("symmetries", [CUBE_TURNS, OFF_CENTRE])
def test_equivalent_poses_have_the_same_representatives(symmetries):
    model = cube(symmetries)
    for pose in some_poses(20):
        wanted = representatives(pose, model)
        for symmetry in symmetries[:: len(symmetries) // 6]:
            assert same_set(representatives(pose @ symmetry, model), wanted)


@pytest.mark.parametrize("symmetries", [CUBE_TURNS, OFF_CENTRE])
def test_canonical_is_idempotent_and_the_same_for_equivalent_poses(symmetries):
    model = cube(symmetries)
    for pose in some_poses(20, 1):
        chosen = canonical(pose, model)
        np.testing.assert_allclose(canonical(chosen, model), chosen, atol=1e-12)
        np.testing.assert_allclose(representatives(pose, model)[0], chosen)
        for symmetry in symmetries[::5]:
            np.testing.assert_allclose(canonical(pose @ symmetry, model), chosen, atol=1e-9)


def test_canonical_is_nearest_to_the_reference():
    """A cube's rotations leave at most 62.8 degrees, the farthest point of the 24 cells."""
    model = cube()
    for pose in some_poses(50, 2):
        angles = symmetric_angles(canonical(pose, model), model)
        assert angles[0] == pytest.approx(angles.min()) and np.degrees(angles[0]) < 62.8


def test_the_reference_view_is_its_own_representative():
    model = cube()
    direction = np.array([0.3, -0.2, 1.0])
    pose = make_pose(rotation_between([0, 0, 1], direction) @ REFERENCE, direction)
    np.testing.assert_allclose(canonical(pose, model), pose, atol=1e-9)
    assert symmetric_angles(pose, model)[0] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("beyond, count", [(0.0, 2), (2.0, 2), (3.0, 1), (20.0, 1)])
def test_near_a_boundary_there_are_several_representatives(beyond, count):
    """Half way between two quarter turns both are as near; the angles differ by twice the way beyond it."""
    model = cube(reference=np.eye(3))
    pose = make_pose(from_rotation_vector([0, 0, np.radians(45 - beyond)]), [0, 0, 0.7])
    found = representatives(pose, model)
    assert len(found) == count
    np.testing.assert_allclose(found[0], canonical(pose, model))
    np.testing.assert_allclose(found[0], pose, atol=1e-12) if beyond else None


def test_steps_of_a_continuous_symmetry_are_no_choices():
    """Neighbouring steps are the same aim: representatives lie more than 20 degrees apart."""
    model = cube(expand_symmetries((), [([0, 0, 1], [0, 0, 0])]))
    counts = []
    for pose in some_poses(20, 3):
        found = representatives(pose, model)[:, :3, :3]
        apart = rotation_angle(found[:, None], found[None]) + 9 * np.eye(len(found))
        assert np.degrees(apart.min()) > 20
        counts.append(len(found))
    assert np.median(counts) <= 3


def test_canonical_keeps_to_the_previous_pose():
    model = cube()
    for pose in some_poses(10, 4):
        for symmetry in CUBE_TURNS:
            moved = pose @ make_pose(from_rotation_vector([0.1, -0.2, 0.1]), [0.01, 0, 0])
            np.testing.assert_allclose(canonical(moved @ symmetry, model, previous=pose), moved, atol=1e-9)


def test_without_symmetry_nothing_changes():
    model = cube(np.eye(4)[None])
    for pose in some_poses(5, 5):
        np.testing.assert_array_equal(canonical(pose, model), pose)
        np.testing.assert_array_equal(representatives(pose, model), pose[None])


def test_scaled():
    half = cube(expand_symmetries((), [([0, 0, 1], [0.01, 0, 0])], 4)).scaled(0.5)
    assert half.diameter == pytest.approx(0.1455 / 2)
    np.testing.assert_allclose(half.corners(), box_corners(CENTER, SIZE / 2))
    np.testing.assert_allclose(half.keypoints, half.corners())
    axis = [0.005, 0, 7]
    np.testing.assert_allclose(transform(half.symmetries, [axis])[:, 0], [axis] * 4, atol=1e-12)


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(diameter=145.5), "'cube': diameter: wanted .*, found 145.5 m"),
        (dict(diameter=np.nan), "diameter: wanted .*, found nan"),
        (dict(keypoints=np.zeros((3, 3))), "keypoints: wanted at least 4, found 3"),
        (dict(keypoints=np.zeros((8, 2))), "keypoints: wanted finite"),
        (dict(box_size=[1, 2]), "box_size: wanted finite"),
        (dict(box_size=[1, -2, 0]), "box_size: wanted no negative sides"),
        (dict(box_center=[0, 0, np.inf]), "box_center: wanted finite"),
        (dict(symmetries=CUBE_TURNS[::-1]), "first symmetry must be the identity"),
        (dict(symmetries=np.stack([np.eye(4), 2 * np.eye(4)])), "symmetry 1: rotation is not orthonormal"),
    ],
)
def test_refusals(change, words):
    with pytest.raises(ValueError, match=words):
        cube(**change)


def test_is_frozen():
    with pytest.raises(ValueError):
        cube().keypoints[0, 0] = 1
