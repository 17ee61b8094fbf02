# SPDX-License-Identifier: Apache-2.0
"""Shape, size and symmetry are checked against each other; files are read as other tools write them."""

import itertools
import json

import cv2
import numpy as np
import pytest
from scipy.spatial import ConvexHull

from pose_kd_ros.core.pose import from_rotation_vector, make_pose
from pose_kd_ros.datasets.bop import BopDataset
from pose_kd_ros.datasets.bop.folder import surface_points
from pose_kd_ros.datasets.faults import DatasetError
from pose_kd_ros.datasets.meshes import load_ply_triangles, load_ply_vertices
from pose_kd_ros.datasets.shape_check import check_symmetries, surface_samples
from pose_kd_ros.datasets.source import Mask, Source

SIDES = np.array([84.0, 60.0, 30.0])  # millimetres


def box_points(step=3.0):
    """Points on the faces of a box of SIDES about the origin, millimetres."""
    axes = [np.arange(-side / 2, side / 2 + 0.1, step) for side in SIDES]
    grid = np.array(list(itertools.product(*axes)))
    return grid[(np.abs(grid) >= SIDES / 2 - 0.1).any(1)]


def box_triangles(points):
    """Two triangles for each face of the box of these points, between its corners."""
    corners = np.flatnonzero((np.abs(points) >= np.abs(points).max(0) - 0.1).all(1))
    return corners[ConvexHull(points[corners]).simplices]


def ply(path, points, newline="\n", form="ascii", faces=()):
    head = ["ply", f"format {form} 1.0", "comment made here", f"element vertex {len(points)}"]
    head += [*(f"property float {axis}" for axis in "xyz"), f"element face {len(faces)}"]
    head += ["property list uchar int vertex_indices", "property uchar red", "end_header"]
    data = newline.join([*head, ""]).encode()
    rows = [*points, *([len(face), *face, 255] for face in faces)]
    if form == "ascii":
        data += newline.join(" ".join(f"{value:g}" for value in row) for row in rows).encode()
    else:
        data += np.asarray(points, "<f4").tobytes()
        for face in faces:
            data += bytes([len(face)]) + np.asarray(face, "<i4").tobytes() + bytes([255])
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("form", ["ascii", "binary_little_endian"])
def test_a_ply_file_may_end_its_lines_as_windows_does(tmp_path, newline, form):
    points = box_points(30.0)
    np.testing.assert_allclose(
        load_ply_vertices(ply(tmp_path / "a.ply", points, newline, form)), points * 1e-3, rtol=1e-5
    )


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_faces_are_read_and_cut_into_triangles(tmp_path, newline, form):
    points = box_points(6.0)
    faces = box_triangles(points)
    path = ply(tmp_path / "a.ply", points, newline, form, faces)
    np.testing.assert_array_equal(load_ply_triangles(path), faces)
    quads = ply(tmp_path / "b.ply", points, newline, form, [[0, 1, 2, 3], [4, 5, 6, 7]])
    assert load_ply_triangles(quads).tolist() == [[0, 1, 2], [4, 5, 6], [0, 2, 3], [4, 6, 7]]


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian"])
@pytest.mark.parametrize("faces", [[], [[0, 1, 2], [0, 1, 2, 3]], [[0, 1, 2, 3], [0, 1, 2]], [[0, 1, 99]]])
def test_other_faces_are_none(tmp_path, form, faces):
    path = ply(tmp_path / "a.ply", box_points(30.0), form=form, faces=faces)
    assert load_ply_triangles(path).shape == (0, 3)
    path.write_bytes(path.read_bytes()[:-3])
    assert load_ply_triangles(path).shape == (0, 3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_vertex_that_is_no_place_is_named_with_its_file(tmp_path, value):
    points = box_points(30.0)
    points[4, 1] = value
    with pytest.raises(DatasetError, match=r"a\.ply: vertex 4: wanted finite numbers, found "):
        load_ply_vertices(ply(tmp_path / "a.ply", points))


def test_words_in_place_of_numbers_are_refused_by_name(tmp_path):
    path = ply(tmp_path / "a.ply", box_points(30.0))
    path.write_text(path.read_text().replace("-42", "left", 1))
    with pytest.raises(DatasetError, match=r"a\.ply: vertex: wanted 3 numbers a line"):
        load_ply_vertices(path)


def data_set(folder, scale=1.0, points=None, faces=True, **changes):
    """A split without images and its models folder; scale: of the mesh alone. faces: False writes none."""
    (folder / "test" / "000001").mkdir(parents=True)
    (folder / "models").mkdir()
    info = {"diameter": float(np.linalg.norm(SIDES))}
    info |= {f"min_{axis}": -side / 2 for axis, side in zip("xyz", SIDES)}
    info |= {f"size_{axis}": side for axis, side in zip("xyz", SIDES)}
    (folder / "models" / "models_info.json").write_text(json.dumps({"1": info | changes}))
    points = box_points() if points is None else points
    ply(folder / "models" / "obj_000001.ply", points * scale, faces=box_triangles(points) if faces else ())
    return folder / "test"


def turn(axis, degrees, shift=(0.0, 0.0, 0.0)):
    rotation = from_rotation_vector(np.radians(degrees) * np.array(axis, float))
    return make_pose(rotation, shift).reshape(-1).tolist()


def test_a_mesh_of_the_stated_size_and_symmetry_is_taken(tmp_path):
    split = data_set(tmp_path, symmetries_discrete=[turn((0, 0, 1), 180), turn((1, 0, 0), 180)])
    assert surface_points(split, [1])[1].shape == box_points().shape


@pytest.mark.parametrize("scale", [1e-3, 25.4, 0.5])
def test_a_mesh_of_another_unit_is_refused_with_both_sizes(tmp_path, scale):
    with pytest.raises(DatasetError, match=r"wanted a diameter of 0\.1075 m .* found .* m and \(") as refusal:
        surface_points(data_set(tmp_path, scale), [1])
    assert ("millimetres" in str(refusal.value)) == (scale != 0.5)


def test_another_mesh_of_the_same_diameter_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"found 0\.1075 m and \(0\.03, 0\.06, 0\.084\) m"):
        surface_points(data_set(tmp_path, points=box_points()[:, ::-1]), [1])


@pytest.mark.parametrize(
    "symmetry",
    [
        {"symmetries_discrete": [turn((0, 0, 1), 90)]},
        {"symmetries_discrete": [turn((0, 0, 1), 180, (0.0, 20.0, 0.0))]},
        {"symmetries_discrete": [turn((0, 0, 1), 180, (0.0, 0.0, 0.1 * 1000))]},
        {"symmetries_continuous": [{"axis": [0, 0, 1], "offset": [0, 0, 0]}]},
    ],
)
def test_a_symmetry_that_the_mesh_does_not_have_is_refused(tmp_path, symmetry):
    with pytest.raises(DatasetError, match=r"symmetry \d: wanted one that maps .* to itself, found"):
        surface_points(data_set(tmp_path, **symmetry), [1])


def dense_on_one_face():
    """The vertices of a cube of 60 mm: its corners, and 50 x 50 on one face."""
    corners = np.array(list(itertools.product((-30.0, 30.0), repeat=3)))
    u, v = np.meshgrid(np.linspace(-29, 29, 50), np.linspace(-29, 29, 50))
    return np.concatenate([corners, np.stack([u.ravel(), v.ravel(), np.full(u.size, 30.0)], 1)])


@pytest.mark.parametrize("faces", [True, False])
def test_a_mesh_with_most_vertices_on_one_face_keeps_its_symmetries(tmp_path, faces):
    info = {"diameter": 60 * 3**0.5} | {f"min_{axis}": -30.0 for axis in "xyz"}
    info |= {f"size_{axis}": 60.0 for axis in "xyz"}
    turns = [turn(axis, 90) for axis in ((1, 0, 0), (0, 1, 0), (0, 0, 1))]
    split = data_set(tmp_path, points=dense_on_one_face(), faces=faces, symmetries_discrete=turns, **info)
    assert len(surface_points(split, [1])[1]) == 2508


def test_samples_lie_on_the_triangles_by_area():
    small, large = np.eye(3), 3 * np.eye(3)
    points = surface_samples(np.array([small, large]), 10_000)
    assert np.isclose(points.sum(1), 1).mean() == pytest.approx(0.1, abs=0.01)
    assert np.isclose(points.sum(1), 3).sum() + np.isclose(points.sum(1), 1).sum() == 10_000
    flat = np.zeros((1, 3, 3))
    check_symmetries("flat", surface_samples(flat), 1.0, np.eye(4)[None])


def test_the_symmetries_of_occluded_linemod_hold(shared_data):
    assert sorted(surface_points(shared_data / "lmo" / "test", [10, 11])) == [10, 11]


@pytest.mark.parametrize("value", [1, 127, 255])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_mask_is_where_it_is_not_0(tmp_path, value, kind, channels):
    pixels = np.zeros((6, 8), kind)
    pixels[2:4, 3:5] = value
    shape = pixels if channels == 1 else np.repeat(pixels[..., None], 3, 2)
    cv2.imwrite(str(tmp_path / "mask.png"), shape)
    found = Mask(Source(tmp_path / "mask.png")).load()
    assert found.dtype == bool and (found == (pixels > 0)).all()


@pytest.mark.parametrize("at, value", [(1, 2.5), (3, 0.1), (8, 2.0), (6, 0.01)])
def test_a_camera_with_skew_is_refused_by_the_reader(tmp_path, at, value):
    split = data_set(tmp_path)
    K = [500.0, 0.0, 320.0, 0.0, 500.0, 240.0, 0.0, 0.0, 1.0]
    K[at] = value
    scene = split / "000001"
    (scene / "rgb").mkdir()
    cv2.imwrite(str(scene / "rgb" / "000003.png"), np.zeros((8, 8, 3), np.uint8))
    (scene / "scene_camera.json").write_text(json.dumps({"3": {"cam_K": K, "depth_scale": 1.0}}))
    (scene / "scene_gt.json").write_text(json.dumps({"3": []}))
    with pytest.raises(DatasetError, match=r"cam_K: wanted fx, 0, cx; 0, fy, cy; 0, 0, 1, found"):
        _ = BopDataset(split).images
