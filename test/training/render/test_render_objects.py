# SPDX-License-Identifier: Apache-2.0
"""Data sets of several objects."""

import json
import shutil
from collections import Counter

import numpy as np
import pytest

from pose_kd_ros.datasets.bop import BopDataset
from training.data.crops import CropConfig, CropDataset
from training.data.objects import load_objects
from training.data.targets import VoteTargets
from training.render.config import RenderConfig
from training.render.dataset import render_dataset
from training.render.mesh_files import Target, load_targets, numbered_meshes, write_models
from training.render.shapes import cube

SYMMETRIES = {"symmetries_discrete": [[-1, 0, 0, 0, 0, -1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]]}
SMALL = {"width": 160, "height": 120, "size_px": (25.0, 70.0)}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A models folder of three cubes, ids 1, 5 and 9; the second says that it has a symmetry."""
    folder = tmp_path_factory.mktemp("models")
    symmetries = {1: {}, 5: SYMMETRIES, 9: {}}
    write_models(folder, [Target(i, cube(0.01 * (i + 4)), symmetries[i]) for i in symmetries])
    return folder


@pytest.fixture(scope="module")
def data(models, tmp_path_factory):
    out = tmp_path_factory.mktemp("several")
    config = RenderConfig(mesh=models, images_per_scene=12, table_probability=0.5, **SMALL)
    render_dataset(config, out, "train", 12, seed=1)
    return out


def test_all_objects_occur_alone_and_together(data):
    images = BopDataset(data / "train").images
    seen = [Counter(i.object_id for i in image.instances) for image in images]
    assert {1, 5, 9} == set().union(*seen)
    assert any(len(ids) > 1 for ids in seen)
    assert all(count <= 2 for ids in seen for count in ids.values())


def test_the_models_are_all_there_with_their_symmetries(data, models):
    infos = json.loads((data / "models" / "models_info.json").read_text())
    assert sorted(infos) == ["1", "5", "9"]
    assert infos["5"]["symmetries_discrete"] == SYMMETRIES["symmetries_discrete"]
    assert "symmetries_discrete" not in infos["1"]
    assert infos["9"]["diameter"] == pytest.approx(130 * 3**0.5)
    assert [t.object_id for t in load_targets(RenderConfig(mesh=data / "models"))] == [1, 5, 9]


def test_objects_do_not_stand_in_each_other(data):
    for image in BopDataset(data / "train").images:
        poses = {i.object_id: np.asarray(i.T_camera_object)[:3, 3] for i in image.instances}
        ids = sorted(poses)
        for a, b in ((a, b) for a in ids for b in ids if a < b):
            assert np.linalg.norm(poses[a] - poses[b]) > 0.25 * 0.01 * (a + b + 8)


def test_what_comes_out_trains_a_network_of_several_classes(data):
    objects = load_objects(data)
    images = BopDataset(data / "train").images
    dataset = CropDataset(images, objects, VoteTargets(objects, (8, 16, 32, 64)), CropConfig(128), 0)
    classes = set()
    for index in range(24):
        classes |= set(dataset[index]["class_index"].tolist())
    assert classes == {0, 1, 2}


def test_a_folder_that_does_not_say_what_it_holds_is_refused(models, tmp_path):
    with pytest.raises(ValueError, match=r"wanted meshes \(.ply, .obj, .stl\), found none"):
        load_targets(RenderConfig(mesh=tmp_path))
    (tmp_path / "models_info.json").write_text((models / "models_info.json").read_text())
    with pytest.raises(ValueError, match=r"obj_000001.ply: wanted the mesh of object 1"):
        load_targets(RenderConfig(mesh=tmp_path))


def test_another_set_of_objects_in_the_same_place_is_refused(data, models):
    config = RenderConfig(images_per_scene=12, **SMALL)
    with pytest.raises(ValueError, match=r"wanted object 1, found object 1, 5, 9;"):
        render_dataset(config, data, "val", 12, seed=2)


def test_meshes_are_numbered_by_their_files_or_folders(models, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(models / "obj_000005.ply", tmp_path / "elsewhere" / "mesh.ply")
    (tmp_path / "003_box").symlink_to(tmp_path / "elsewhere")  # as others link their collections
    shutil.copy(models / "obj_000009.ply", tmp_path / "12_cube.ply")
    with pytest.raises(
        ValueError, match=r"elsewhere/mesh.ply: wanted a name that begins with the object's id"
    ):
        load_targets(RenderConfig(mesh=tmp_path))
    (tmp_path / "elsewhere").rename(tmp_path / "7")
    (tmp_path / "003_box").unlink()
    (tmp_path / "003_box").symlink_to(tmp_path / "7")
    found = numbered_meshes(tmp_path)
    assert {number: path.name for number, path in found.items()} == {
        3: "mesh.ply",
        7: "mesh.ply",
        12: "12_cube.ply",
    }
    assert [t.object_id for t in load_targets(RenderConfig(mesh=tmp_path))] == [3, 7, 12]
    shutil.copy(tmp_path / "12_cube.ply", tmp_path / "12_again.ply")
    with pytest.raises(ValueError, match=r"wanted one mesh of object 12, found .*12_again.ply too"):
        load_targets(RenderConfig(mesh=tmp_path))
