# SPDX-License-Identifier: Apache-2.0
"""Image-wise shards hold what scene folders hold, and what is wrong with either is refused or counted."""

import json
import logging
import shutil

import cv2
import numpy as np
import pytest

from pose_kd_ros.datasets.bop import BopDataset
from pose_kd_ros.datasets.faults import DatasetError, Faults
from pose_kd_ros.datasets.source import run_lengths

ROTATION = [[1, 0, 0], [0, -0.6, -0.8], [0, 0.8, -0.6]]


@pytest.fixture
def split(tmp_path):
    """Six grey images with depth, of two scenes, two objects each; an unmoved world, a camera that moves."""
    for scene in (3, 12):
        write_scene(tmp_path / "set/test" / f"{scene:06d}", scene)
    return tmp_path / "set/test"


def write_scene(folder, seed):
    random = np.random.RandomState(seed)
    for part in ("gray", "depth", "mask_visib"):
        (folder / part).mkdir(parents=True)
    files = {name: {} for name in ("camera", "gt", "gt_info")}
    for i in (0, 5, 41):
        camera, world = turned(random.uniform(-1, 1, 3), random.uniform(-200, 200, 3)), np.eye(4)
        world[:3, 3] = [10, 20, 800]
        pose = camera @ world
        K = [500.0 + i, 0, 31.5, 0, 510, 24, 0, 0, 1]
        files["camera"][str(i)] = {
            "cam_K": K,
            "depth_scale": 0.1,
            "cam_R_w2c": camera[:3, :3].ravel().tolist(),
            "cam_t_w2c": camera[:3, 3].tolist(),
        }
        entry = {"cam_R_m2c": pose[:3, :3].ravel().tolist(), "cam_t_m2c": pose[:3, 3].tolist()}
        files["gt"][str(i)] = [entry | {"obj_id": n} for n in (2, 7)]
        box = {"bbox_obj": [1, 2, 30, 20], "bbox_visib": [1, 2, 20, 20]}
        files["gt_info"][str(i)] = [box | {"visib_fract": f} for f in (0.5, 1.0)]
        cv2.imwrite(str(folder / f"gray/{i:06d}.tif"), random.randint(0, 255, (48, 64)).astype(np.uint8))
        cv2.imwrite(str(folder / f"depth/{i:06d}.png"), random.randint(0, 9999, (48, 64)).astype(np.uint16))
        for k in (0, 1):
            mask = (random.uniform(size=(48, 64)) > 0.5).astype(np.uint8) * 255
            cv2.imwrite(str(folder / f"mask_visib/{i:06d}_{k:06d}.png"), mask)
    for name, content in files.items():
        (folder / f"scene_{name}.json").write_text(json.dumps(content))


def turned(vector, translation):
    result = np.eye(4)
    result[:3, :3], result[:3, 3] = cv2.Rodrigues(np.asarray(vector, float))[0], translation
    return result


def assert_same(one, other):
    """All that an image holds, pictures, depth and masks included, to the bit."""
    assert (one.scene_id, one.image_id, one.depth_scale) == (
        other.scene_id,
        other.image_id,
        other.depth_scale,
    )
    np.testing.assert_array_equal(one.K, other.K)
    np.testing.assert_array_equal(one.load_rgb(), other.load_rgb())
    assert (one.depth is None) == (other.depth is None)
    if one.depth:
        np.testing.assert_array_equal(one.load_depth(), other.load_depth())
    assert (one.T_camera_world is None) == (other.T_camera_world is None)
    if one.T_camera_world is not None:
        np.testing.assert_array_equal(one.T_camera_world, other.T_camera_world)
    assert len(one.instances) == len(other.instances)
    for a, b in zip(one.instances, other.instances):
        np.testing.assert_array_equal(a.T_camera_object, b.T_camera_object)
        for name in ("object_id", "bbox_visib", "bbox_obj", "visib_fract"):
            assert getattr(a, name) == getattr(b, name)
        assert (a.mask_visib is None) == (b.mask_visib is None)
        if a.mask_visib:
            np.testing.assert_array_equal(a.load_mask(), b.load_mask())


def test_both_layouts_give_the_same_images(split, tmp_path, to_shards):
    to_shards(split, tmp_path / "shards")
    ours, theirs = BopDataset(split).images, BopDataset(tmp_path / "shards").images
    assert [(i.scene_id, i.image_id) for i in theirs] == [(s, i) for s in (3, 12) for i in (0, 5, 41)]
    for one, other in zip(ours, theirs):
        assert_same(one, other)
    assert theirs[0].instances[0].load_mask().mean() == pytest.approx(0.5, abs=0.05)


def test_occluded_linemod_as_shards(shared_data, tmp_path, to_shards):
    to_shards(shared_data / "lmo/test", tmp_path / "shards", limit=6)
    ours = {(i.scene_id, i.image_id): i for i in BopDataset(shared_data / "lmo/test").images}
    theirs = BopDataset(tmp_path / "shards").images
    assert len(theirs) == 6
    for image in theirs:
        assert_same(ours[image.scene_id, image.image_id], image)


def test_the_camera_in_the_world_puts_the_object_where_it_stands(split):
    """The objects do not move: from every camera they are at (10, 20, 800) mm."""
    for image in BopDataset(split).images:
        for instance in image.instances:
            T_world_object = np.linalg.inv(image.T_camera_world) @ instance.T_camera_object
            np.testing.assert_allclose(T_world_object[:3, 3], [0.01, 0.02, 0.8], atol=1e-9)
            np.testing.assert_allclose(T_world_object[:3, :3], np.eye(3), atol=1e-9)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
def test_run_lengths_go_down_the_columns():
    np.testing.assert_array_equal(run_lengths({"counts": [1, 2, 1], "size": [2, 2]}, "x"), [[0, 1], [1, 0]])
    np.testing.assert_array_equal(run_lengths({"counts": [0, 6], "size": [2, 3]}, "x"), np.ones((2, 3)))
    counts, size = [3, 4, 1, 9, 3], [4, 5]
    oracle = pytest.importorskip("pycocotools.mask")
    expected = oracle.decode(oracle.frPyObjects({"counts": counts, "size": size}, *size))
    np.testing.assert_array_equal(run_lengths({"counts": counts, "size": size}, "x"), expected)


@pytest.mark.parametrize(
    "entry, message",
    [
        ({"counts": [1, 2], "size": [2, 2]}, r"wanted runs of 4 pixels in all \(2 x 2\), found 3"),
        ({"counts": "a1b", "size": [2, 2]}, "counts: wanted a list of run lengths, found str"),
        ({"counts": [5, -1], "size": [2, 2]}, "wanted runs of 4 pixels"),
        ({"counts": [4]}, "size is missing"),
    ],
)
def test_wrong_run_lengths_are_refused(entry, message):
    with pytest.raises(DatasetError, match=message):
        run_lengths(entry, "x")


# ------------------------------------------------------------------------------------------------- faults


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


SCENE_FAULTS = [
    (lambda s: (s / "000003/gray/000005.tif").unlink(), "picture", "image 5 .* has no picture"),
    (
        lambda s: edit(s / "000003/scene_camera.json", lambda f: f["5"].pop("cam_K")),
        "json",
        "scene_camera.json, image 5: cam_K is missing",
    ),
    (
        lambda s: edit(s / "000003/scene_camera.json", lambda f: f["5"].pop("cam_t_w2c")),
        "json",
        "cam_t_w2c is missing",
    ),
    (
        lambda s: edit(s / "000003/scene_gt_info.json", lambda f: f["5"][1].pop("visib_fract")),
        "json",
        "instance 1: visib_fract is missing",
    ),
    (
        lambda s: edit(s / "000003/scene_gt_info.json", lambda f: f.pop("5")),
        "json",
        "scene_gt_info.json: 5 is missing",
    ),
    (
        lambda s: edit(s / "000003/scene_gt.json", lambda f: f.update({"5": {}})),
        "json",
        "image 5: wanted a list, found dict",
    ),
]


@pytest.mark.parametrize("damage, kind, message", SCENE_FAULTS)
def test_a_faulty_image_is_refused_or_left_out_and_named(split, caplog, damage, kind, message):
    damage(split)
    with pytest.raises(DatasetError, match=message):
        BopDataset(split)
    faults = Faults("skip")
    with caplog.at_level(logging.WARNING):
        images = BopDataset(split, faults).images
    assert (3, 5) not in [(i.scene_id, i.image_id) for i in images] and len(images) == 5
    assert faults.summary(len(images) + faults.images) == f"skipped 1 of 6 images: 1 {kind}"
    [record] = caplog.records
    assert message.split(" ")[-1] in record.getMessage()


def test_a_scene_without_its_truth_is_left_out_whole(split):
    (split / "000003/scene_gt.json").write_text("{")
    with pytest.raises(DatasetError, match=r"scene_gt.json: not valid JSON"):
        BopDataset(split)
    faults = Faults("skip")
    assert len(BopDataset(split, faults).images) == 3
    assert faults.summary(3) == "skipped 0 of 3 images: 1 scene"


def test_lens_models_and_scenes_of_several_sensors_are_refused_by_name(split):
    edit(split / "000003/scene_camera.json", lambda f: f["5"].update(cam_model={"name": "FISHEYE624"}))
    edit(split / "000003/scene_camera.json", lambda f: f["5"].pop("cam_K"))
    with pytest.raises(DatasetError, match="wanted a pinhole camera, found cam_model; undistort"):
        BopDataset(split)
    (split / "000003/scene_camera.json").rename(split / "000003/scene_camera_rgb.json")
    with pytest.raises(DatasetError, match=r"found scene_camera_rgb.json: of several sensors"):
        BopDataset(split)


def test_a_truncated_shard_gives_what_is_whole_in_it(split, tmp_path, to_shards):
    to_shards(split, tmp_path / "shards")
    shard = tmp_path / "shards/shard-000000.tar"
    whole = {(i.scene_id, i.image_id): i for i in BopDataset(tmp_path / "shards").images}
    images = [i for i in whole.values() if i.rgb.path == shard]
    last = max(images, key=lambda i: i.rgb.offset)
    shard.write_bytes(shard.read_bytes()[: last.rgb.offset + 100])
    with pytest.raises(DatasetError, match=r"shard-000000.tar: not a whole tar file"):
        BopDataset(tmp_path / "shards")
    faults = Faults("skip")
    left = BopDataset(tmp_path / "shards", faults).images
    assert {(i.scene_id, i.image_id) for i in left} == set(whole) - {(last.scene_id, last.image_id)}
    for image in left:
        assert_same(whole[image.scene_id, image.image_id], image)
    assert faults.summary(6) == "skipped 1 of 6 images: 1 picture, 1 shard"


def test_a_shard_cut_between_two_images_is_missing_what_its_index_promises(split, tmp_path, to_shards):
    to_shards(split, tmp_path / "shards")
    shard = tmp_path / "shards/shard-000000.tar"
    images = sorted(
        (i for i in BopDataset(tmp_path / "shards").images if i.rgb.path == shard), key=lambda i: i.rgb.offset
    )
    key = f"{images[-1].scene_id:06d}_{images[-1].image_id:06d}"
    data = shard.read_bytes()
    shard.write_bytes(data[: data.index(key.encode())])
    faults = Faults("skip")
    assert len(BopDataset(tmp_path / "shards", faults).images) == 5
    assert any(f"{key} has no picture" in message for message in faults.kinds)
    assert any("its end is missing: truncated" in message for message in faults.kinds)


def test_members_that_are_missing_or_damaged_are_named(split, tmp_path, to_shards):
    to_shards(split, tmp_path / "shards", limit=1)
    shard = tmp_path / "shards/shard-000000.tar"
    data = shard.read_bytes()
    for old, new, message in (
        (b"000003_000000.gt.json", b"000003_000000.gx.json", "000003_000000.gt.json: no such member"),
        (b'"cam_K"', b'"cam_k"', "000003_000000.camera.json: cam_K is missing"),
        (b'[{"cam_R_m2c"', b'[|"cam_R_m2c"', "000003_000000.gt.json: not valid JSON"),
    ):
        renamed = data.replace(old, new)
        assert renamed != data
        write_with_sums(shard, renamed)
        with pytest.raises(DatasetError, match=message):
            BopDataset(tmp_path / "shards")
    write_with_sums(shard, data.replace(b'"1": {"counts"', b'"9": {"counts"'))
    [image] = BopDataset(tmp_path / "shards").images
    assert image.instances[0].load_mask().any()
    with pytest.raises(DatasetError, match=r"mask_visib.json: 1 is missing"):
        image.instances[1].load_mask()


def write_with_sums(path, data):
    """The tar with the check sums of its headers made good."""
    blocks = [bytearray(data[i : i + 512]) for i in range(0, len(data), 512)]
    for block in blocks:
        if block[257:262] == b"ustar":
            block[148:156] = b" " * 8
            block[148:156] = f"{sum(block):06o}\0 ".encode()
    path.write_bytes(b"".join(blocks))


def test_a_damaged_picture_is_refused_when_it_is_read(split):
    path = split / "000003/gray/000005.tif"
    picture = cv2.imread(str(path))
    cv2.imwrite(str(path.with_suffix(".jpg")), picture)
    path.unlink()
    path = path.with_suffix(".jpg")
    path.write_bytes(path.read_bytes()[:-400])
    image = BopDataset(split).images[1]
    with pytest.raises(DatasetError, match=r"000005.jpg: cannot be .*: is truncated: wanted a JPEG end"):
        image.load_rgb()
    path.unlink()
    with pytest.raises(DatasetError, match=r"000005.jpg: cannot be read: No such file"):
        image.load_rgb()


def test_a_shard_that_shrinks_after_it_was_indexed_is_named(split, tmp_path, to_shards):
    to_shards(split, tmp_path / "shards", limit=1)
    [image] = BopDataset(tmp_path / "shards").images
    shard = image.rgb.path
    shard.write_bytes(shard.read_bytes()[: image.rgb.offset + 10])
    wanted = rf"shard-000000.tar:000003_000000.gray.tif: wanted {image.rgb.size} bytes, found 10: truncated"
    with pytest.raises(DatasetError, match=wanted):
        image.load_rgb()


def test_folders_and_shards_side_by_side_are_refused(split, to_shards, tmp_path):
    to_shards(split, tmp_path / "shards", limit=1)
    shutil.copy(tmp_path / "shards/shard-000000.tar", split)
    with pytest.raises(DatasetError, match="found 2 and 1: not a BOP split"):
        BopDataset(split)
