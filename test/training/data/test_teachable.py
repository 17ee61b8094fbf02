# SPDX-License-Identifier: Apache-2.0
"""A data set that teaches nothing, or contradicts itself, is refused before the first step."""

import json
import shutil

import cv2
import pytest

pytest.importorskip("torch")

from pose_kd_ros.datasets.faults import DatasetError, Faults
from training.data.objects import load_objects
from training.data.splits import load_split


def edited(root, name, change):
    path = root / "train" / "000000" / f"scene_{name}.json"
    content = json.loads(path.read_text())
    for entries in content.values():
        change(entries)
    path.write_text(json.dumps(content))


def hidden(root):
    edited(root, "gt_info", lambda entries: entries[0].update(visib_fract=0.0))


def empty(root):
    edited(root, "gt", lambda entries: entries.clear())
    edited(root, "gt_info", lambda entries: entries.clear())


def in_metres(root):
    edited(
        root, "gt", lambda entries: entries[0].update(cam_t_m2c=[t / 1000 for t in entries[0]["cam_t_m2c"]])
    )


def elsewhere(root):
    edited(root, "gt", lambda entries: entries[0].update(cam_t_m2c=[300.0, 0.0, 900.0]))


def blank_masks(root):
    for path in (root / "train" / "000000" / "mask_visib").iterdir():
        cv2.imwrite(str(path), 0 * cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))


@pytest.mark.parametrize(
    ("harm", "text"),
    [
        (hidden, r"found none in 6 images; 6 of object 1 are there, all hidden"),
        (empty, r"wanted visible instances .* of objects \[1\], found none in 6 images"),
        (in_metres, r"wanted a .* found .*6 of 6 instances .* Translations are millimetres"),
        (elsewhere, r"wanted a mask in the box .* of its pose, found it about .*6 of 6 instances"),
        (blank_masks, r"found an empty mask; so in 6 of 6 instances"),
    ],
)
def test_a_data_set_that_teaches_nothing_is_refused(tiny_data, tmp_path, harm, text):
    root = tmp_path / "data"
    shutil.copytree(tiny_data, root)
    harm(root)
    with pytest.raises(DatasetError, match=text):
        load_split(root / "train", load_objects(root), Faults())


def test_what_can_be_learnt_is_counted(tiny_data, capsys):
    assert len(load_split(tiny_data / "train", load_objects(tiny_data), Faults())) == 6
    assert "train: 6 instances of object 1" in capsys.readouterr().out


def test_masks_of_zeros_and_ones_teach_as_much(tiny_data, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(tiny_data, root)
    for path in (root / "train" / "000000" / "mask_visib").iterdir():
        cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) // 255)
    images = load_split(root / "train", load_objects(root), Faults())
    assert all(image.instances[0].load_mask().any() for image in images)
