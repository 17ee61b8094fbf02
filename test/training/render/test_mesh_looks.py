# SPDX-License-Identifier: Apache-2.0
"""The looks of an OBJ file: its material's colour, and pictures that are not there."""

import itertools
import json

import numpy as np
import pytest

pytest.importorskip("trimesh")

from training.render.config import RenderConfig
from training.render.mesh_files import load_mesh, load_targets

FACES = [(1, 3, 4, 2), (5, 6, 8, 7), (1, 2, 6, 5), (3, 7, 8, 4), (1, 5, 7, 3), (2, 4, 8, 6)]


def obj(folder, material, uv=False, library="looks.mtl"):
    corners = list(itertools.product((0.0, 80.0), (0.0, 50.0), (0.0, 30.0)))
    lines = [f"mtllib {library}", *(f"v {x} {y} {z}" for x, y, z in corners)]
    lines += ["vt 0 0", "vt 1 0", "vt 1 1", "vt 0 1"] if uv else []
    lines += ["usemtl paint"]
    for face in FACES:
        lines.append("f " + " ".join(f"{v}/{k}" if uv else str(v) for k, v in enumerate(face, 1)))
    (folder / "part.obj").write_text("\n".join(lines) + "\n")
    if material is not None:
        (folder / "looks.mtl").write_text("newmtl paint\n" + material)
    return folder / "part.obj"


@pytest.mark.parametrize("uv", [False, True])
def test_a_material_without_a_picture_gives_its_colour(tmp_path, uv):
    mesh = load_mesh(obj(tmp_path, "Kd 0.8 0.2 0.1\n", uv), "mm", own=True)
    assert mesh.texture is None
    np.testing.assert_allclose(mesh.colours, np.tile([0.8, 0.2, 0.1], (len(mesh.colours), 1)), atol=0.01)


def test_a_picture_that_is_missing_is_named(tmp_path):
    path = obj(tmp_path, "Kd 1 1 1\nmap_Kd -o 0 0 paint.png\n", uv=True)
    with pytest.raises(ValueError, match=r"looks\.mtl: wanted its picture .*paint\.png, found none"):
        load_mesh(path, "mm", own=True)
    assert load_mesh(path, "mm").texture is None  # of random looks nothing is missed


def test_a_material_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"part\.obj: wanted its material file .*other\.mtl, found none"):
        load_mesh(obj(tmp_path, None, library="other.mtl"), "mm", own=True)


def test_a_vertex_that_is_no_place_is_named(tmp_path):
    path = obj(tmp_path, "Kd 1 1 1\n")
    path.write_text(path.read_text().replace("v 80.0 50.0 30.0", "v nan 50.0 30.0"))
    with pytest.raises(ValueError, match=r"part\.obj: vertex \d: wanted finite numbers"):
        load_mesh(path, "mm")


def test_a_symmetry_that_the_mesh_does_not_have_is_refused(tmp_path):
    turn = [[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    info = {"diameter": 99.0, "min_x": 0, "min_y": 0, "min_z": 0, "size_x": 80, "size_y": 50, "size_z": 30}
    info["symmetries_discrete"] = [np.ravel(turn).tolist()]
    (tmp_path / "models_info.json").write_text(json.dumps({"1": info}))
    config = RenderConfig(mesh=obj(tmp_path, "Kd 1 1 1\n"), symmetries=tmp_path / "models_info.json")
    with pytest.raises(ValueError, match="symmetry 1: wanted one that maps the mesh, of diameter"):
        load_targets(config)
    info["symmetries_discrete"] = [[-1, 0, 0, 80, 0, -1, 0, 50, 0, 0, 1, 0, 0, 0, 0, 1]]
    (tmp_path / "models_info.json").write_text(json.dumps({"1": info}))
    assert len(load_targets(config)) == 1
