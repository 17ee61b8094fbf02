# SPDX-License-Identifier: Apache-2.0
"""VSD on planes and boxes whose error is known beforehand, and on a real depth camera."""

import json

import cv2
import numpy as np
import pytest

from pose_kd_ros.core.object_model import box_corners
from pose_kd_ros.core.pose import from_rotation_vector, make_pose
from pose_kd_ros.evaluation.vsd import TAUS, Caster, Rays, visible, vsd

K = np.array([[500.0, 0, 128], [0, 500, 96], [0, 0, 1]])
RAYS = Rays(K, 256, 192)
NOTHING = np.zeros((192, 256))
SIDES = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]


def plane(depth, columns=slice(40, 200)):
    """Distances to a window of a plane across the optical axis."""
    result = NOTHING.copy()
    result[50:150, columns] = depth
    return RAYS.to_distance(result)


def cube(size):
    triangles = [[side[0], side[i], side[i + 1]] for side in SIDES for i in (1, 2)]
    return box_corners((0, 0, 0), (size,) * 3), np.array(triangles)


def test_a_plane_behind_the_true_one_is_wrong_for_the_tolerances_it_exceeds():
    # 12 mm and up to 12.6 mm along the rays, of a diameter of 100 mm: above the tolerances of 0.05 and 0.1
    errors = vsd(plane(0.512), plane(0.5), plane(0.5), 0.1)
    np.testing.assert_array_equal(errors, (TAUS < 0.12).astype(float))


def test_the_same_pose_has_no_error_even_where_nothing_was_measured():
    np.testing.assert_array_equal(vsd(plane(0.5), plane(0.5), NOTHING, 0.1), np.zeros(10))


def test_a_window_moved_aside_errs_by_what_is_not_shared():
    # 160 columns, 40 of them moved out: 120 are shared of 200
    errors = vsd(plane(0.5, slice(80, 240)), plane(0.5), plane(0.5), 0.1)
    np.testing.assert_allclose(errors, 80 / 200)


def test_what_is_hidden_does_not_count():
    measured = plane(0.5)
    measured[:, :120] = np.where(measured[:, :120] > 0, 0.3, 0)  # something stands before the left half
    wrong_where_hidden = plane(0.5)
    wrong_where_hidden[:, :120] *= 1.2
    np.testing.assert_array_equal(vsd(wrong_where_hidden, plane(0.5), measured, 0.1), np.zeros(10))


def test_seen_means_at_most_15_mm_behind_the_measurement():
    assert visible(np.array([0.514, 0.516, 0.0, 2.0]), np.array([0.5, 0.5, 0.5, 0])).tolist() == [
        True,
        False,
        False,
        True,
    ]


def test_an_object_out_of_sight_is_wrong():
    np.testing.assert_array_equal(vsd(NOTHING, NOTHING, plane(0.5), 0.1), np.ones(10))


def slab_distance(pose, size):
    """Distances to a cube by the slab method."""
    start, way = -pose[:3, :3].T @ pose[:3, 3], RAYS.directions @ pose[:3, :3]
    with np.errstate(divide="ignore"):
        sides = np.sort([(-size / 2 - start) / way, (size / 2 - start) / way], axis=0)
    enter, leave = sides[0].max(-1), sides[1].min(-1)
    return np.where(enter < leave, enter, 0)


def test_rays_meet_a_box_where_they_must():
    pytest.importorskip("open3d")
    pose = make_pose(from_rotation_vector((0.5, -0.3, 0.9)), (0.03, -0.02, 0.6))
    found, wanted = Caster({1: cube(0.084)}).distance(1, pose, RAYS), slab_distance(pose, 0.084)
    both = (found > 0) & (wanted > 0)
    assert both.sum() > 4000 and ((found > 0) ^ (wanted > 0)).sum() <= 2  # rays along an edge
    np.testing.assert_allclose(found[both], wanted[both], atol=1e-6)


def test_a_box_partly_behind_the_camera_is_seen_whole():
    pytest.importorskip("open3d")
    inside = Caster({1: cube(1.0)}).distance(1, np.eye(4), RAYS)
    np.testing.assert_allclose(inside, RAYS.to_distance(np.full((192, 256), 0.5)), atol=1e-6)


def test_a_box_5_mm_too_far_errs_as_its_front_does():
    pytest.importorskip("open3d")
    caster, near, far = Caster({1: cube(0.084)}), np.eye(4), np.eye(4)
    near[2, 3], far[2, 3] = 0.5, 0.51
    true, estimated = (caster.distance(1, pose, RAYS) for pose in (near, far))
    errors = vsd(estimated, true, true, 0.1455)
    rim = 1 - (estimated > 0).sum() / (true > 0).sum()  # farther away it covers less
    np.testing.assert_allclose(errors[1:], rim)  # 10 mm are within 0.1 d, not within 0.05 d
    assert errors[0] == 1


def test_a_real_depth_camera_sees_the_cube_4_mm_behind_its_model(shared_data):
    pytest.importorskip("open3d")
    folder = shared_data / "visp_rbt"
    content = json.loads((folder / "poses_checked.json").read_text())
    rays, caster = Rays(np.array(content["K"]), 640, 480), Caster({1: cube(0.084 * 85 / 84)})
    gaps, errors = [], []
    for index in content["tracked_cube_frames"][::6]:
        record = content["frames"][index]
        pose = np.array(record["objects"]["cube"]["T_cam_objfile_tracked"])
        depth = cv2.imread(str(folder / record["depth"]), cv2.IMREAD_UNCHANGED) * content["depth_scale_m"]
        measured, true = rays.to_distance(depth), caster.distance(1, pose, rays)
        on_it = (true > 0) & (measured > 0) & (abs(measured - true) < 0.03)
        gaps.append(np.median((measured - true)[on_it]))
        moved = pose.copy()
        moved[:3, 3] *= 1 + 0.02 / np.linalg.norm(pose[:3, 3])  # 20 mm away from the camera
        errors.append([vsd(caster.distance(1, p, rays), true, measured, 0.1472) for p in (pose, moved)])
    assert 0.0035 < np.median(gaps) < 0.0055 and 0.002 < min(gaps) and max(gaps) < 0.0085
    same, moved = np.mean(errors, 0)
    assert (same == 0).all()
    assert moved[1] > 0.9 > 0.3 > moved[3]  # 20 mm are 0.136 d: beyond 0.1 d, within 0.2 d
