# SPDX-License-Identifier: Apache-2.0
"""Meshes, mesh files, pictures and camera effects by themselves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.render import effects, mesh_files, pictures, shapes
from training.render.scene import resting_rotations


def test_cube_has_its_edge_and_its_origin_in_the_centre():
    cube = shapes.cube(0.084)
    low, size = cube.box
    np.testing.assert_allclose(low, -0.042)
    np.testing.assert_allclose(size, 0.084)
    assert cube.diameter == pytest.approx(0.084 * 3**0.5)


def test_cube_rotations_form_the_group_of_24():
    rotations = shapes.cube_rotations()
    assert rotations.shape == (24, 3, 3)
    np.testing.assert_array_equal(rotations[0], np.eye(3))
    np.testing.assert_allclose(np.linalg.det(rotations), 1)
    keys = {r.tobytes() for r in rotations + 0.0}
    assert len(keys) == 24
    assert all((a @ b + 0.0).tobytes() in keys for a in rotations for b in rotations)


def test_each_cube_face_shows_one_whole_picture():
    cube = shapes.cube()
    for layer in range(6):
        uv = cube.uv[cube.layers == layer]
        assert len(uv) == 6
        np.testing.assert_allclose([uv.min(0), uv.max(0)], [[0, 0], [1, 1]])


@pytest.mark.parametrize("name", sorted(shapes.primitives()))
def test_primitives_have_unit_normals_and_finite_numbers(name):
    mesh = shapes.primitives()[name]
    assert np.isfinite(mesh.interleaved()).all() and len(mesh.positions) % 3 == 0
    np.testing.assert_allclose(np.linalg.norm(mesh.normals, axis=1), 1, atol=1e-6)


def test_box_normals_point_outwards():
    box = shapes.box()
    assert (np.einsum("vk,vk->v", box.positions, box.normals) > 0).all()


def test_a_cube_rests_flat_on_any_face():
    cube = shapes.cube()
    for rotation in resting_rotations(cube):
        heights = (cube.positions @ rotation.T)[:, 2]
        assert np.sum(heights < heights.min() + 1e-9) >= 6  # the two triangles of the lower face


def obj_text(scale):
    return "".join(
        f"v {x * scale} {y * scale} {z * scale}\n" for x in (0, 1) for y in (0, 2) for z in (0, 3)
    ) + "".join(
        f"f {' '.join(map(str, f))}\n"
        for f in [(1, 3, 4, 2), (5, 6, 8, 7), (1, 2, 6, 5), (3, 7, 8, 4), (1, 5, 7, 3), (2, 4, 8, 6)]
    )


def test_units_of_a_mesh_file(tmp_path):
    path = tmp_path / "block.obj"
    path.write_text(obj_text(30.0))
    np.testing.assert_allclose(mesh_files.load_mesh(path, "mm").box[1], [0.03, 0.06, 0.09])
    with pytest.raises(
        ValueError, match=r"block.obj: wanted a diameter .* found 112.* in mm it would be 0.112"
    ):
        mesh_files.load_mesh(path, "m")


def test_unreadable_meshes_are_named(tmp_path):
    path = tmp_path / "broken.ply"
    path.write_text("nothing")
    with pytest.raises(ValueError, match=r"broken.ply"):
        mesh_files.load_mesh(path, "mm")


def test_textured_mesh_keeps_its_own_look(shared_data):
    mesh = mesh_files.load_mesh(shared_data / "ycb_meshes/002_master_chef_can/textured.obj", "m")
    assert mesh.texture.shape == (512, 512, 3) and mesh.texture.std() > 10
    assert 0.1 < mesh.diameter < 0.2 and (mesh.layers == 0).all()


def test_photographs_are_split_by_name_without_overlap(shared_data):
    counts = {
        split: len(pictures.load_photographs(shared_data / "backgrounds", split))
        for split in ("all", "train", "val")
    }
    assert counts["all"] == counts["train"] + counts["val"] and 0 < counts["val"] < 0.3 * counts["all"]


def test_a_folder_without_pictures_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path}: wanted pictures"):
        pictures.load_photographs(tmp_path, "all")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32))
def test_face_pictures_have_their_shape_and_repeat(seed):
    first, second = (pictures.face_pictures(np.random.default_rng(seed), [], 64) for _ in range(2))
    assert first.shape == (6, 64, 64, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, second)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 1.0]))
def test_camera_effects_keep_shape_and_repeat(seed, grey):
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    first, second = (effects.camera_effects(image, np.random.default_rng(seed), grey) for _ in range(2))
    assert first.shape == image.shape and first.dtype == np.uint8
    np.testing.assert_array_equal(first, second)
    if grey:
        assert np.ptp(first.astype(int), axis=2).max() <= 2  # JPEG may tint a little


def test_no_open3d_in_the_renderer():
    import subprocess
    import sys

    code = "import sys, training.render.dataset; print('open3d' in sys.modules, 'torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split()
        == ["False"] * 2
    )
