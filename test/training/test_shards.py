"""Shards: each by itself, and merged the same as one run."""

import dataclasses
import json
import shutil

import pytest

torch = pytest.importorskip("torch")

from training import table  # noqa: E402
from training.models.network import NetworkConfig  # noqa: E402
from training.plan import cut, plan  # noqa: E402
from training.render.dataset import render_dataset  # noqa: E402
from training.shards import Shard, merge, shards_of  # noqa: E402
from training.table import FIGURES, keep, make_table  # noqa: E402

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
    if together:
        whole = plan(whole[0].run, dataclasses.replace(whole[1].run, name="student"), 2, -1.0, together=True)
    parts = [cut(whole, (index, 3), 4, together) for index in range(3)]
    listed = [row.place for part in parts for row in part if row.listed]
    assert sorted(listed) == [row.place for row in whole if row.listed]
    for part in parts:
        names = {row.run.folder for row in part}
        assert {row.run.distill.teacher for row in part} - {None} <= names


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
    for text in ("2/2", "-1/2", "1", "a/b"):
        with pytest.raises(ValueError):
            Shard.parse(text)
    keep(Shard(0, 2).of(tmp_path / "t.json"), [])
    keep(Shard(0, 3).of(tmp_path / "t.json"), [])
    with pytest.raises(ValueError, match="of one division"):
        shards_of(tmp_path / "t.json")
    assert Shard().of(tmp_path) == tmp_path
