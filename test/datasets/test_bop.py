# SPDX-License-Identifier: Apache-2.0
"""The BOP reader on a real data set, and on files with one thing wrong at a time."""

import json

import numpy as np
import pytest

from pose_kd_ros.datasets.bop import BopDataset, load_models_info, load_scene, load_targets
from pose_kd_ros.datasets.faults import DatasetError
from pose_kd_ros.datasets.meshes import load_ply_vertices


def test_occluded_linemod(shared_data):
    images = BopDataset(shared_data / "lmo" / "test").images
    assert len(images) == 100 and {i.scene_id for i in images} == {2}
    raw = json.loads((shared_data / "lmo/test/000002/scene_gt.json").read_text())
    for image in images:
        entries = raw[str(image.image_id)]
        assert [i.object_id for i in image.instances] == [e["obj_id"] for e in entries]
        for instance, entry in zip(image.instances, entries):
            rotation = instance.T_camera_object[:3, :3]
            np.testing.assert_allclose(rotation.T @ rotation, np.eye(3), atol=1e-12)
            np.testing.assert_allclose(
                rotation.reshape(-1), entry["cam_R_m2c"], atol=5e-3
            )  # scaled by up to 1.0044 there
            np.testing.assert_allclose(instance.T_camera_object[:3, 3] * 1000, entry["cam_t_m2c"])
            assert 0 <= instance.visib_fract <= 1 and instance.mask_visib is None
    assert images[0].load_rgb().shape == (480, 640, 3)
    with pytest.raises(DatasetError, match="no depth file"):
        images[0].load_depth()


def test_occluded_linemod_boxes_hold_the_projected_models(shared_data):
    vertices = {k: load_ply_vertices(shared_data / f"lmo/models_eval/obj_{k:06d}.ply") for k in (1, 5)}
    for image in BopDataset(shared_data / "lmo" / "test").images[:20]:
        for instance in (i for i in image.instances if i.object_id in vertices):
            pose = instance.T_camera_object
            seen = (vertices[instance.object_id] @ pose[:3, :3].T + pose[:3, 3]) @ image.K.T
            x, y, w, h = instance.bbox_obj
            np.testing.assert_allclose((seen[:, :2] / seen[:, 2:]).min(0), [x, y], atol=3)
            np.testing.assert_allclose((seen[:, :2] / seen[:, 2:]).max(0), [x + w, y + h], atol=3)


def test_occluded_linemod_models_and_targets(shared_data):
    infos = load_models_info(shared_data / "lmo/models_eval/models_info.json")
    assert sorted(infos) == [1, 5, 6, 8, 9, 10, 11, 12]
    assert infos[1].diameter_m == pytest.approx(0.102099)
    assert len(infos[10].symmetries_discrete) == 2
    np.testing.assert_allclose(
        infos[10].symmetries_discrete[1][:3, 3] * 1000, [0.232611, 0.694388, -0.0792063]
    )
    targets = load_targets(shared_data / "lmo/test_targets_bop19.json")
    assert targets[0].scene_id == 2 and all(t.count >= 1 for t in targets)


@pytest.fixture
def scene(tmp_path):
    """One image with one object at z = 1000 mm; returns (folder, write) to change a file."""
    folder = tmp_path / "000007"
    (folder / "rgb").mkdir(parents=True)
    (folder / "rgb/000003.png").write_bytes(b"no picture")
    camera = {"3": {"cam_K": [500, 0, 320, 0, 500, 240, 0, 0, 1], "depth_scale": 0.1}}
    truth = {"3": [{"cam_R_m2c": np.eye(3).reshape(-1).tolist(), "cam_t_m2c": [0, 0, 1000], "obj_id": 1}]}
    info = {
        "3": [
            {
                "bbox_obj": [1, 2, 3, 4],
                "bbox_visib": [1, 2, 3, 4],
                "px_count_all": 9,
                "px_count_valid": 9,
                "px_count_visib": 9,
                "visib_fract": 1.0,
            }
        ]
    }
    files = {"scene_camera": camera, "scene_gt": truth, "scene_gt_info": info}
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder, files


def test_millimetres_become_metres(scene):
    [image] = load_scene(scene[0])
    np.testing.assert_allclose(image.instances[0].T_camera_object[:3, 3], [0, 0, 1.0])
    assert (image.scene_id, image.image_id) == (7, 3) and image.depth_scale == pytest.approx(1e-4)
    with pytest.raises(DatasetError, match=r"000003.png: cannot be decoded"):
        image.load_rgb()


BREAKS = [
    ("scene_camera", lambda f: f["3"].pop("cam_K"), "scene_camera.json, image 3: cam_K is missing"),
    ("scene_camera", lambda f: f["3"].update(cam_K=[1, 2]), "cam_K: wanted 9 finite numbers"),
    ("scene_camera", lambda f: f["3"].update(cam_K=[0] * 9), "cam_K: wanted positive focal lengths"),
    ("scene_camera", lambda f: f.pop("3"), "scene_camera.json: 3 is missing"),
    (
        "scene_gt",
        lambda f: f["3"][0].pop("cam_t_m2c"),
        "scene_gt.json, image 3, instance 0: cam_t_m2c is missing",
    ),
    ("scene_gt", lambda f: f["3"][0].update(cam_t_m2c=[0, 0, None]), "cam_t_m2c: wanted 3"),
    (
        "scene_gt",
        lambda f: f["3"][0].update(cam_R_m2c=[2, 0, 0, 0, 2, 0, 0, 0, 2]),
        "cam_R_m2c: wanted a rotation",
    ),
    (
        "scene_gt",
        lambda f: f["3"][0].update(cam_R_m2c=[-1, 0, 0, 0, 1, 0, 0, 0, 1]),
        "cam_R_m2c: wanted a rotation",
    ),
    ("scene_gt", lambda f: f["3"][0].update(obj_id="cube"), "obj_id: wanted 1 numbers, found 'cube'"),
    ("scene_gt", lambda f: f.update({"4": []}), "image 4 of scene_gt.json has no picture"),
    ("scene_gt_info", lambda f: f["3"].append({}), "scene_gt_info.json, image 3: wanted 1 entries"),
    ("scene_gt_info", lambda f: f["3"][0].pop("visib_fract"), "instance 0: visib_fract is missing"),
]


@pytest.mark.parametrize("name, change, message", BREAKS)
def test_a_wrong_field_is_named(scene, name, change, message):
    folder, files = scene
    change(files[name])
    (folder / f"{name}.json").write_text(json.dumps(files[name]))
    with pytest.raises(DatasetError, match=message):
        load_scene(folder)


def test_files_that_are_absent_or_no_json_are_named(scene):
    folder, _ = scene
    (folder / "scene_gt_info.json").unlink()
    assert load_scene(folder)[0].instances[0].bbox_obj is None
    (folder / "scene_gt.json").write_text("{")
    with pytest.raises(DatasetError, match=r"scene_gt.json: not valid JSON"):
        load_scene(folder)
    (folder / "scene_camera.json").unlink()
    with pytest.raises(DatasetError, match=r"scene_camera.json: no such file"):
        load_scene(folder)
    with pytest.raises(DatasetError, match="found none: not a BOP split"):
        BopDataset(folder)


def write_info(path, **changes):
    entry = {"diameter": 100, **{f"min_{a}": -1 for a in "xyz"}, **{f"size_{a}": 2 for a in "xyz"}, **changes}
    path.write_text(json.dumps({"1": entry}))
    return path


def test_continuous_symmetries(tmp_path):
    path = write_info(
        tmp_path / "models_info.json", symmetries_continuous=[{"axis": [0, 0, 2], "offset": [0, 5, 0]}]
    )
    [(axis, offset)] = load_models_info(path)[1].symmetries_continuous
    np.testing.assert_allclose(axis, [0, 0, 1])
    np.testing.assert_allclose(offset, [0, 0.005, 0])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"diameter": 0}, "object 1: wanted a positive diameter"),
        ({"size_y": None}, "size_y: wanted 1"),
        ({"symmetries_discrete": [[1, 0, 0]]}, r"symmetries_discrete\[0\]: matrix: wanted 16"),
        (
            {"symmetries_discrete": [np.diag([1, 1, 1, 5.0]).reshape(-1).tolist()]},
            "wanted the last row 0 0 0 1",
        ),
        ({"symmetries_continuous": [{"axis": [0, 0, 0], "offset": [0, 0, 0]}]}, "axis: wanted a direction"),
    ],
)
def test_wrong_model_fields_are_named(tmp_path, changes, message):
    with pytest.raises(DatasetError, match=message):
        load_models_info(write_info(tmp_path / "models_info.json", **changes))


def test_ply_ascii_and_binary_agree(tmp_path):
    points = np.array([[1.5, 2, 3], [4, 5, -6]])
    head = (
        "ply\nformat {}\nelement vertex 2\nproperty uchar red\n"
        + "".join(f"property float {a}\n" for a in "xyz")
        + "element face 0\nend_header\n"
    )
    ascii_path, binary_path = tmp_path / "a.ply", tmp_path / "b.ply"
    ascii_path.write_text(head.format("ascii 1.0") + "".join(f"7 {x} {y} {z}\n" for x, y, z in points))
    record = np.zeros(2, [("red", "u1"), ("p", ">f4", 3)])
    record["p"] = points
    binary_path.write_bytes(head.format("binary_big_endian 1.0").encode() + record.tobytes())
    np.testing.assert_allclose(load_ply_vertices(ascii_path), points / 1000)
    np.testing.assert_allclose(load_ply_vertices(binary_path), points / 1000)
    binary_path.write_bytes(binary_path.read_bytes()[:-3])
    with pytest.raises(DatasetError, match="wanted 2 as the header says, found 1"):
        load_ply_vertices(binary_path)
    ascii_path.write_text("obj")
    with pytest.raises(DatasetError, match="wanted a ply file"):
        load_ply_vertices(ascii_path)
