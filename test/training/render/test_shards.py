"""Shards: each by itself, and merged the same as one run."""

import dataclasses
import json
import shutil

import pytest

torch = pytest.importorskip("torch")

from training.models.dense import DenseConfig  # noqa: E402
from training.models.network import NetworkConfig  # noqa: E402
from training.render.dataset import render_dataset  # noqa: E402
from training.studies import table  # noqa: E402
from training.studies.plan import cut, dense_rows, groups, plan  # noqa: E402
from training.studies.shards import Shard, merge, shards_of  # noqa: E402
from training.studies.table import FIGURES, keep, make_table  # noqa: E402

from .render.test_render_dataset import COUNT, SEED, SMALL, digests  # noqa: E402
from .test_train import settings  # noqa: E402

TINY = dataclasses.replace(SMALL, images_per_scene=2)


def test_two_shards_of_renders_merged_are_one_run(tmp_path):
    render_dataset(TINY, tmp_path / "one", "train", COUNT, SEED)
    for index in (1, 0):
        if index == 0:
            with pytest.raises(ValueError, match=r"missing train\.shard-0-of-2; run"):
                merge(tmp_path / "two" / "train")
        render_dataset(TINY, tmp_path / "two", "train", COUNT, SEED, shard=(index, 2))
    half = tmp_path / "two" / "train.shard-1-of-2"
    assert sorted(p.name for p in half.iterdir()) == ["000001", "render.json", "shard.json"]
    kept = tmp_path / "kept"
    shutil.move(half / "000001", kept)
    with pytest.raises(ValueError, match=r"shard-1-of-2: scene 000001 is not finished"):
        merge(tmp_path / "two" / "train")
    shutil.move(kept, half / "000001")
    merge(tmp_path / "two" / "train")
    assert digests(tmp_path / "two") == digests(tmp_path / "one")


@pytest.fixture
def rows(tiny_data, tmp_path):
    def of(runs):
        network = NetworkConfig(width=32, depth=1, groups=4)
        teacher = settings(tiny_data, runs, name="teacher", network=network)
        return plan(teacher, settings(tiny_data, runs, name="student"), 2, -1.0)

    return of


@pytest.mark.parametrize("together", [False, True])
def test_every_row_is_in_one_shard_with_the_teacher_it_waits_for(together, rows, tmp_path):
    whole = rows(tmp_path)
    big = dataclasses.replace(whole[0].run, name="dense_teacher", network=DenseConfig(width=32))
    small = dataclasses.replace(big, name="dense", network=DenseConfig(width=16))
    dense = dense_rows(big, small, -1.0, None if together else whole[0].run.folder)
    student = dataclasses.replace(whole[1].run, name="student")
    whole = plan(whole[0].run, student, 2, -1.0, dense=dense, together=together)
    parts = [cut(whole, (index, 3), 4, together) for index in range(3)]
    listed = [row.place for part in parts for row in part if row.listed]
    assert sorted(listed) == [row.place for row in whole if row.listed]
    for part in parts:
        names = {row.run.folder for row in part}
        assert {run for row in part for run in (row.run.distill.teacher, row.locator)} - {None} <= names
    of_dense = [g for g in groups(whole, 4, together) if g[0].run.network.family == "dense"]
    assert [[row.method for row in g] for g in of_dense] == [["teacher"], ["none", "adlp", "naive"]]


def test_two_shards_of_a_table_merged_are_one_run(rows, tiny_data, tmp_path, monkeypatch):
    def measured(row, test, _):
        figure = len(row.run.name) + row.run.seed / 8
        return [{"found": figure, "parameters": 7, "date": "today"}]

    monkeypatch.setattr(table, "train_together", lambda configs: None)
    monkeypatch.setattr(table, "measured", measured)
    split = [tiny_data / "val"]
    make_table(rows(tmp_path / "a"), tmp_path / "one.json", split, 2, 0.0, 4)
    out = tmp_path / "two.json"
    for index in (0, 1):
        shard = Shard(index, 2)
        whole = rows(shard.of(tmp_path / "b"))
        part = cut(whole, (index, 2), 4, False)
        assert (part[0].run.folder / FIGURES).exists() is False
        make_table(part, shard.of(out), split, 2, 0.0, 4, False, len(whole))
        if index == 0:
            with pytest.raises(ValueError, match=r"missing two\.shard-1-of-2\.json; run"):
                merge(out)
    merge(out)
    assert out.read_bytes() == (tmp_path / "one.json").read_bytes()
    means = {r["method"]: r for r in json.loads(out.read_text()) if "seeds" in r}
    row = means["adlp"]
    assert row["name"] == "keypoint, darknet-tiny-h, width 16, depth 1: adlp, mean of 2 seeds"
    assert row["seeds"] == 2 and row["seed"] == "0, 1" and row["found_std"] == pytest.approx(0.0884, abs=1e-4)
    assert "teacher" not in means and row["parameters"] == 7


def test_a_shard_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="shard 2/2: wants i/n with 0 <= i < n"):
        Shard.parse("2/2")
    for text in ("-1/2", "1", "a/b", "0/4/2"):
        with pytest.raises(ValueError, match=f"--shard {text}: wants i/n, such as 0/4"):
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
    with pytest.raises(ValueError, match="train: holds other renders than the shards'"):
        merge(split)
    assert Shard(0, 2).of(split).exists() and '"seed": 1' in (split / "render.json").read_text()
    keep(Shard(0, 2).of(tmp_path / "t.json"), [])
    keep(Shard(0, 3).of(tmp_path / "t.json"), [])
    with pytest.raises(ValueError, match="of one division"):
        shards_of(tmp_path / "t.json")
    assert Shard().of(tmp_path) == tmp_path
