# SPDX-License-Identifier: Apache-2.0
"""Shards: each by itself, and merged the same as one run."""

import dataclasses
import shutil

import pytest

pytest.importorskip("moderngl")

from training.render.dataset import render_dataset
from training.render.shards import Shard, merge, shards_of

from .test_render_dataset import COUNT, SEED, SMALL, digests

TINY = dataclasses.replace(SMALL, images_per_scene=2)


def test_two_shards_of_renders_merged_are_one_run(tmp_path):
    render_dataset(TINY, tmp_path / "one", "train", COUNT, SEED)
    for index in (1, 0):
        if index == 0:
            with pytest.raises(ValueError, match=r"found none of train\.shard-0-of-2; run"):
                merge(tmp_path / "two" / "train")
        render_dataset(TINY, tmp_path / "two", "train", COUNT, SEED, shard=(index, 2))
    half = tmp_path / "two" / "train.shard-1-of-2"
    assert sorted(p.name for p in half.iterdir()) == ["000001", "render.json", "shard.json"]
    kept = tmp_path / "kept"
    shutil.move(half / "000001", kept)
    with pytest.raises(ValueError, match=r"shard-1-of-2: wanted scene 000001, found it unfinished"):
        merge(tmp_path / "two" / "train")
    shutil.move(kept, half / "000001")
    merge(tmp_path / "two" / "train")
    assert digests(tmp_path / "two") == digests(tmp_path / "one")


def test_a_shard_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="shard: wanted i/n with 0 <= i < n, found 2/2"):
        Shard.parse("2/2")
    for text in ("-1/2", "1", "a/b", "0/4/2"):
        with pytest.raises(ValueError, match=f"--shard: wanted i/n, such as 0/4, found {text}"):
            Shard.parse(text)


def test_a_merge_does_not_touch_other_renders(tmp_path):
    split = tmp_path / "train"
    (split / "000000").mkdir(parents=True)
    (split / "render.json").write_text('{"seed": 1, "images_per_scene": 2}')
    for index in (0, 1):
        folder = Shard(index, 2).of(split)
        folder.mkdir()
        (folder / "render.json").write_text('{"seed": 2, "images_per_scene": 2}')
        (folder / "shard.json").write_text('{"count": 4}')
    with pytest.raises(ValueError, match="train: wanted no renders but the shards', found others"):
        merge(split)
    assert Shard(0, 2).of(split).exists() and '"seed": 1' in (split / "render.json").read_text()
    Shard(0, 3).of(split).mkdir()
    with pytest.raises(ValueError, match="of one division"):
        shards_of(split)
    assert Shard().of(tmp_path) == tmp_path
