# SPDX-License-Identifier: Apache-2.0
"""Tiles: as many samples show a wide one as was asked for, and none is forgotten."""

import dataclasses
import json
import shutil

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from training.config import RunConfig  # noqa: E402
from training.data.crops import CropConfig  # noqa: E402
from training.data.turns import Turns  # noqa: E402
from training.fit.train import make_dataset  # noqa: E402
from training.models.dense import DenseConfig  # noqa: E402
from training.models.keypoint import NetworkConfig  # noqa: E402

EMPTY = 12  # images without the object, of which each gives a wide tile


def with_empty_images(source, folder):
    """A copy of a data set of 6 images whose train split has EMPTY more, without an object."""
    shutil.copytree(source, folder)
    scene = folder / "train" / "000000"
    contents = {name: json.loads((scene / f"scene_{name}.json").read_text()) for name in ("camera", "gt")}
    contents["gt_info"] = json.loads((scene / "scene_gt_info.json").read_text())
    for number in range(6, 6 + EMPTY):
        cv2.imwrite(str(scene / "rgb" / f"{number:06d}.png"), np.full((192, 256, 3), number, np.uint8))
        if (scene / "depth").exists():
            cv2.imwrite(str(scene / "depth" / f"{number:06d}.png"), np.zeros((192, 256), np.uint16))
        contents["camera"][str(number)] = contents["camera"]["0"]
        contents["gt"][str(number)] = contents["gt_info"][str(number)] = []
    for name, content in contents.items():
        (scene / f"scene_{name}.json").write_text(json.dumps(content))
    return folder


def dataset(data, share, network=None, **changes):
    crops = CropConfig(size=128, search_share=share)
    run = RunConfig("run", data=data, crops=crops, network=network or NetworkConfig(), tile_px=96)
    return make_dataset(dataclasses.replace(run, **changes), "train")


def shows(sample):
    return bool(len(sample["class_index"]))


@pytest.mark.parametrize("cached", [False, True])
def test_of_tiles_the_search_has_the_share_that_was_asked_for(tiny_data, tmp_path, cached):
    data = with_empty_images(tiny_data, tmp_path / "data")
    cache = tmp_path / "cache" if cached else None
    assert all(shows(s) for s in map(dataset(data, 0.0, cache=cache).__getitem__, range(40)))
    quarter = dataset(data, 0.25, cache=cache)
    tiles = len(quarter.images)
    wide = [quarter.images[quarter.turns.number(i)].wide for i in range(8 * tiles)]
    assert sum(wide) == 2 * tiles and wide[:tiles] != wide[tiles : 2 * tiles]
    assert all(dataset(data, 1.0, cache=cache).images[n].wide for n in quarter.turns.wide)


def test_the_dense_family_sees_tiles_without_its_object_as_often_as_asked(dense_data, tmp_path):
    data = with_empty_images(dense_data, tmp_path / "data")
    half = dataset(data, 0.5, DenseConfig())
    assert sum(shows(half[i]) for i in range(2 * len(half.images))) == len(half.images)


def test_every_tile_of_each_kind_comes_in_turn():
    turns = Turns(np.arange(7), np.arange(7, 12), 0.4, seed=3)
    numbers = np.array([turns.number(i) for i in range(12 * 35)])
    assert np.bincount(numbers[numbers < 7]).tolist() == [36] * 7
    counts = np.bincount(numbers[numbers >= 7])[7:]
    assert counts.sum() == 168 and counts.max() - counts.min() <= 1
    assert len(set(numbers[numbers < 7][:7])) == 7 and len(set(numbers[numbers >= 7][:5])) == 5


def test_where_one_kind_is_missing_the_other_fills_in():
    assert {Turns(np.arange(3), np.arange(0), 0.5, 0).number(i) for i in range(6)} == {0, 1, 2}
    assert {Turns(np.arange(0), np.arange(2), 0.0, 0).number(i) for i in range(6)} == {0, 1}
    with pytest.raises(ValueError, match="wanted one with an object to train on or a wide one, found none"):
        Turns(np.arange(0), np.arange(0), 0.5, 0)


def test_a_share_is_a_share():
    with pytest.raises(ValueError, match=r"CropConfig.search_share: wanted 0 to 1, found 1.5"):
        CropConfig(search_share=1.5)
