# SPDX-License-Identifier: Apache-2.0
"""Meshes go into a bundle that is there already."""

import numpy as np
import pytest

pytest.importorskip("open3d")
pytest.importorskip("trimesh")

import trimesh

from pose_kd_ros.bundle.store import open_bundle
from test.bundle.test_bundle import bundle  # noqa: F401
from training.__main__ import main


def test_the_word_box_makes_a_box(bundle, capsys):  # noqa: F811
    main(["add-mesh", str(bundle.folder), "--mesh", "box"])
    mesh = open_bundle(bundle.folder).mesh(1)
    assert (
        len(mesh.triangles) == len(mesh.sharp) == 12 and "triangles {'cube': 12}" in capsys.readouterr().out
    )
    assert {"network.onnx", "golden.npz"} < set(open_bundle(bundle.folder).manifest.files)


@pytest.mark.parametrize(("suffix", "unit", "size"), [("stl", "mm", 84.0), ("ply", "m", 0.084)])
def test_a_fine_mesh_is_decimated_and_its_corners_are_joined(bundle, tmp_path, suffix, unit, size):  # noqa: F811
    fine = trimesh.creation.box((size,) * 3).subdivide().subdivide().subdivide()
    fine.export(tmp_path / f"part.{suffix}")
    command = [
        "add-mesh",
        str(bundle.folder),
        "--mesh",
        str(tmp_path / f"part.{suffix}"),
        "--mesh-unit",
        unit,
    ]
    main([*command, "--faces", "100"])
    mesh = open_bundle(bundle.folder).mesh(1)
    assert len(mesh.triangles) <= 100
    np.testing.assert_allclose(np.ptp(mesh.vertices, axis=0), 0.084, atol=1e-4)
    sharp = mesh.vertices[mesh.sharp]
    assert (np.sort(np.abs(sharp), axis=2)[..., 1] > 0.0419).all()  # on two sides at once
    assert np.linalg.norm(sharp[:, 0] - sharp[:, 1], axis=1).sum() == pytest.approx(12 * 0.084, rel=1e-3)


def test_a_folder_gives_each_object_its_mesh(bundle, tmp_path, capsys):  # noqa: F811
    trimesh.creation.box((84.0,) * 3).export(tmp_path / "obj_000001.ply")
    main(["add-mesh", str(bundle.folder), "--mesh", str(tmp_path)])
    assert len(open_bundle(bundle.folder).mesh(1).triangles) == 12
    (tmp_path / "obj_000001.ply").rename(tmp_path / "obj_000002.ply")
    with pytest.raises(SystemExit):
        main(["add-mesh", str(bundle.folder), "--mesh", str(tmp_path)])
    assert "wanted a mesh of object 1, found [2]" in capsys.readouterr().err


def test_another_objects_mesh_is_refused_and_the_bundle_stays(bundle, tmp_path, capsys):  # noqa: F811
    trimesh.creation.box((100.0,) * 3).export(tmp_path / "part.ply")
    with pytest.raises(SystemExit):
        main(["add-mesh", str(bundle.folder), "--mesh", str(tmp_path / "part.ply")])
    assert "12 triangles, 8 mm beyond it" in capsys.readouterr().err
    assert open_bundle(bundle.folder).mesh(1) is None
