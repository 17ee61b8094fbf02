# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from pose_kd_ros.core.mesh import Mesh, cast, is_seen, outward, visible_edges
from pose_kd_ros.core.object_model import ObjectModel, box_corners
from pose_kd_ros.core.pose import from_rotation_vector, make_pose, transform

SIZE = np.array([0.1, 0.08, 0.06])
MODEL = ObjectModel(1, "box", float(np.linalg.norm(SIZE)), np.zeros(3), SIZE, box_corners(np.zeros(3), SIZE))
BOX = Mesh.of_box(MODEL)
AHEAD = make_pose(np.eye(3), (0, 0, 0.5))
ASKEW = make_pose(from_rotation_vector((0.6, 0.5, 0.1)), (0, 0, 0.5))


def joined(*meshes):
    """Meshes as one."""
    counts = np.cumsum([0, *(len(m.vertices) for m in meshes)])
    parts = zip(meshes, counts)
    triangles = np.concatenate([m.triangles + start for m, start in parts])
    return Mesh.of_faces(np.concatenate([m.vertices for m in meshes]), triangles)


def placed(mesh, shift):
    return Mesh(mesh.vertices + shift, mesh.triangles, mesh.sharp)


def test_a_box_has_twelve_sharp_edges_and_normals_that_point_outward():
    assert len(BOX.sharp) == 12 and len(BOX.edges) == 18
    centers = BOX.vertices[BOX.triangles].mean(1)
    assert (np.einsum("ij,ij->i", BOX.normals, centers) > 0.02).all()


def test_nine_of_a_boxs_edges_show_from_a_corner_and_four_from_ahead():
    assert len(visible_edges(BOX, ASKEW)) == 9
    assert len(visible_edges(BOX, AHEAD)) == 4


def test_a_ray_meets_the_nearest_face():
    depth, face = cast(BOX, AHEAD, [[0, 0, 1], [0.09, 0, 1], [0.2, 0, 1]])
    np.testing.assert_allclose(depth[:2], 0.47)
    assert np.isinf(depth[2]) and BOX.normals[face[0]].tolist() == [0, 0, -1]


def test_rays_through_surface_points_meet_them():
    random = np.random.RandomState(0)
    triangles = BOX.vertices[BOX.triangles]
    points = np.einsum("fk,fkd->fd", random.dirichlet((2, 2, 2), len(triangles)), triangles)
    seen = transform(ASKEW, points)
    depth, _ = cast(BOX, ASKEW, seen / seen[:, 2:])
    shown = np.isclose(depth, seen[:, 2])
    assert shown.sum() == 6 and (depth < seen[:, 2] + 1e-9).all()


def test_a_part_hides_what_is_behind_it_though_its_faces_turn_to_the_camera():
    both = joined(BOX, placed(BOX, (0.03, 0, -0.15)))
    assert not is_seen(both, AHEAD, [(0.03, 0.0, -0.03)])[0]
    assert is_seen(both, AHEAD, [(-0.04, 0.0, -0.03)])[0]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"vertices": np.full((8, 3), np.nan)}, "vertices: wanted finite"),
        ({"triangles": BOX.triangles.astype(float)}, "triangles: wanted integers"),
        ({"triangles": BOX.triangles + 1}, "triangles: wanted indices below 8, found 1 to 8"),
        ({"triangles": np.zeros((0, 3), int)}, "triangles: wanted at least one, found none"),
        ({"sharp": [[0, 7]]}, "sharp: wanted edges of the triangles, found others"),
    ],
)
def test_what_is_no_mesh_is_refused(change, text):
    given = {"vertices": BOX.vertices, "triangles": BOX.triangles, "sharp": BOX.sharp}
    with pytest.raises(ValueError, match=text):
        Mesh(**{**given, **change})


def test_scaling_keeps_the_edges():
    larger = BOX.scaled(2.0)
    assert larger.size == pytest.approx(2 * BOX.size) and len(larger.sharp) == 12


def test_a_mesh_that_is_inside_out_is_turned():
    inside_out = BOX.triangles[:, ::-1]
    far = BOX.vertices + (1.0, 0, 0)
    for faces in (BOX.triangles, inside_out):
        turned = Mesh.of_faces(far, outward(far, faces))
        centers = far[turned.triangles].mean(1) - far.mean(0)
        assert (np.einsum("ij,ij->i", turned.normals, centers) > 0.02).all()
