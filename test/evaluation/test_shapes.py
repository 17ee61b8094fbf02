# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json

import cv2
import numpy as np
import pytest

from pose_kd_ros.core.camera import Camera
from pose_kd_ros.core.object_model import ObjectModel, box_corners
from pose_kd_ros.core.pose import from_rotation_vector, make_pose
from pose_kd_ros.evaluation.shapes import BOX_FACES, Silhouette, surfaces
from pose_kd_ros.recordings.bags import BagError

CAMERA = Camera(np.array([[400.0, 0, 160], [0, 400, 120], [0, 0, 1]]), (), "plumb_bob", 320, 240)
MODEL = ObjectModel(1, "box", 0.14, np.zeros(3), np.full(3, 0.08), box_corners((0, 0, 0), (0.08,) * 3))
BOX = Silhouette.of_box(MODEL)
POSE = make_pose(from_rotation_vector((0.5, 0.6, 0.1)), (0.01, 0.0, 0.5))


def picture(pose):
    return np.repeat(np.where(BOX.mask(pose, CAMERA)[..., None] > 0, 190, 60).astype(np.uint8), 3, 2)


def shifted(pixels):
    pose = POSE.copy()
    pose[0, 3] += pixels * pose[2, 3] / 400
    return pose


def test_the_outline_of_the_right_pose_lies_on_the_image_s_edges():
    median, share = BOX.agreement(picture(POSE), POSE, CAMERA)
    assert median <= 1 and share > 0.98


def test_agreement_falls_as_the_pose_moves_away():
    image = picture(POSE)
    medians, shares = zip(*(BOX.agreement(image, shifted(pixels), CAMERA) for pixels in (0, 3, 6)))
    assert medians[0] < medians[1] < medians[2] and shares[0] > shares[1] > shares[2]


def test_the_silhouette_of_a_box_seen_face_on_has_the_size_it_should():
    mask = BOX.mask(make_pose(np.eye(3), (0, 0, 0.54)), CAMERA)  # its near face is 0.5 m away: 64 pixels
    assert np.count_nonzero(mask) == pytest.approx(64 * 64, rel=0.04)


def test_a_mesh_with_most_vertices_on_one_face_keeps_its_symmetries(tmp_path):
    pytest.importorskip("open3d")
    u, v = (grid.ravel() for grid in np.meshgrid(np.linspace(-39, 39, 50), np.linspace(-39, 39, 50)))
    points = np.concatenate([MODEL.corners() * 1e3, np.stack([u, v, np.full(u.size, 40.0)], 1)])
    head = ["ply", "format ascii 1.0", f"element vertex {len(points)}"]
    head += [*(f"property float {axis}" for axis in "xyz"), f"element face {2 * len(BOX_FACES)}"]
    head += ["property list uchar int vertex_indices", "end_header"]
    triangles = np.concatenate([BOX_FACES[:, :3], BOX_FACES[:, [0, 2, 3]]])
    rows = [" ".join(f"{value:g}" for value in point) for point in points]
    rows += [f"3 {a} {b} {c}" for a, b, c in triangles]
    (tmp_path / "box.ply").write_text("\n".join([*head, *rows, ""]))
    for axis, holds in (((0.0, np.pi / 2, 0.0), True), ((0.0, np.pi / 4, 0.0), False)):
        symmetries = np.stack([np.eye(4), make_pose(from_rotation_vector(axis), (0, 0, 0))])
        model = dataclasses.replace(MODEL, symmetries=symmetries)
        if holds:
            assert surfaces([str(tmp_path / "box.ply")], {1: model}, 1.0)[1].keys() == {1}
        else:
            with pytest.raises(BagError, match="symmetry 1: wanted one that maps the mesh"):
                surfaces([str(tmp_path / "box.ply")], {1: model}, 1.0)


def test_nothing_beside_the_outline_and_nothing_in_view():
    blank = np.full((240, 320, 3), 90, np.uint8)
    assert BOX.agreement(blank, POSE, CAMERA) == (None, 0.0)
    assert BOX.agreement(blank, make_pose(np.eye(3), (0, 0, -1.0)), CAMERA) == (None, 0.0)
    assert BOX.agreement(blank, make_pose(np.eye(3), (9.0, 0, 1.0)), CAMERA) == (None, 0.0)


def test_true_poses_agree_with_real_pictures_and_poses_a_centimetre_off_do_not(shared_data):
    folder = shared_data / "visp_rbt"
    content = json.loads((folder / "poses_checked.json").read_text())
    frames = [one for one in content["frames"] if one["index"] in content["tracked_cube_frames"]][::6]
    cube = Silhouette.of_box(MODEL.scaled(85 / 80))
    right, wrong = [], []
    for one in frames:
        image = cv2.imread(str(folder / one["rgb"]))[..., ::-1].copy()
        camera = Camera(content["K"], (), "plumb_bob", image.shape[1], image.shape[0])
        pose = np.array(one["objects"]["cube"]["T_cam_objfile_tracked"], float)
        right.append(cube.agreement(image, pose, camera)[1])
        pose[:2, 3] += 0.01 / 2**0.5
        wrong.append(cube.agreement(image, pose, camera)[1])
    assert np.median(right) > 0.65 and np.median(wrong) < np.median(right) - 0.2, (right, wrong)
