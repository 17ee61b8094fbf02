# SPDX-License-Identifier: Apache-2.0
"""The table of methods: every row in its order, stopped and gone on with, nothing invented."""

import dataclasses
import json

import pytest

torch = pytest.importorskip("torch")

from training.export.run import write_evaluation  # noqa: E402
from training.fit import checkpoint  # noqa: E402
from training.fit.train import Stopped, train  # noqa: E402
from training.models.dense import DenseConfig  # noqa: E402
from training.models.keypoint import NetworkConfig  # noqa: E402
from training.studies import table  # noqa: E402
from training.studies.offline import dense_rows, offline_rows  # noqa: E402
from training.studies.options import Table  # noqa: E402
from training.studies.table import FIGURES, make_table  # noqa: E402
from training.studies.variant import Row, groups  # noqa: E402

from ..fit.test_train import settings  # noqa: E402


@pytest.fixture
def rows(tiny_data, tmp_path):
    teacher = settings(
        tiny_data,
        tmp_path,
        name="teacher",
        steps=2,
        val_every=100,
        network=NetworkConfig(width=32, depth=1, groups=4),
    )
    student = settings(tiny_data, tmp_path, name="student", steps=2, val_every=100)
    return offline_rows(teacher, student, seeds=2, floor=-1.0)


def order(rows):
    return [(row.method, row.run.seed) for row in rows]


def test_what_counts_most_comes_first_and_rows_differ_in_the_method_alone(rows):
    assert order(rows[:5]) == [("teacher", 0), ("none", 0), ("adlp", 0), ("none", 1), ("adlp", 1)]
    methods = [row.method for row in rows]
    others = ["naive", "fkd", "adlp, released form", "adlp+fkd", "adlp, uncertainty", "none, 2x steps"]
    assert methods[5:11] == methods[-6:] == others
    assert {row.run.seed for row in rows[5:11]} == {0} and {row.run.seed for row in rows[-6:]} == {1}
    plain = rows[1].run
    for row in rows[2:]:
        same = dataclasses.replace(
            row.run,
            name=plain.name,
            distill=plain.distill,
            weights=plain.weights,
            seed=plain.seed,
            steps=plain.steps,
        )
        assert same == plain
    assert len({row.run.name for row in rows}) == len(rows)
    assert rows[10].run.steps == 2 * plain.steps


def test_dense_rows_networks_and_ablations_have_their_places(rows):
    teacher, student = rows[0].run, dataclasses.replace(rows[1].run, name="student")
    dense = (dataclasses.replace(rows[0], method="dense teacher"),)
    full = offline_rows(
        teacher, student, 2, -1.0, (("wide", NetworkConfig(width=32, depth=1, groups=4)),), dense
    )
    methods = [row.method for row in full]
    places = [methods.index(m, 5) for m in ("naive", "dense teacher", "none", "adlp, eps 1e-3")]
    assert places == sorted(places) and full[places[2]].run.network.width == 32
    assert full[methods.index("adlp, ratio 3")].run.distill.ratio == 3


def test_groups_share_stage_and_batches_and_no_teacher(rows):
    parts = groups(rows, 4)
    assert [row for part in parts for row in part] == rows and max(map(len, parts)) == 4
    assert [order(part) for part in parts[:3]] == [order(rows[:1]), order(rows[1:3]), order(rows[3:5])]
    same_stage = [dataclasses.replace(row, stage=0) for row in rows[:3]]
    assert [len(part) for part in groups(same_stage, 4)] == [1, 2]  # no student waits beside its teacher


def test_a_group_is_trained_and_measured_whole(rows, tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr(table, "measured", lambda row, test, _: [{"found": 1.0}])
    train(rows[0].run)
    write_evaluation(rows[0].run.folder, 2, {"found": 0.9})
    rows = rows[1:3]
    assert make_table(rows, tmp_path / "t.json", [tiny_data / "val"], 2, 0.0, 2) is True
    assert [r["method"] for r in json.loads((tmp_path / "t.json").read_text())] == [r.method for r in rows]
    assert [checkpoint.load(row.run.folder / "last.ckpt")["step"] for row in rows] == [2] * len(rows)


def test_rows_that_are_there_are_kept_and_others_left_out(rows, tiny_data, tmp_path, monkeypatch):
    out, split = tmp_path / "out" / "table.json", tiny_data / "val"
    rows, trained = [rows[0], rows[1], rows[3]], []  # the teacher, and none with two seeds

    def stop_at_the_third(configs):
        if len(trained) == 2:
            raise Stopped("enough")
        trained.extend(config.name for config in configs)
        return original(configs)

    original = table.train_together
    monkeypatch.setattr(table, "train_together", stop_at_the_third)
    assert make_table(rows, out, [split], 2, 0.0) is False
    content = json.loads(out.read_text())
    assert [r["method"] for r in content] == ["teacher", "none"]
    assert content[0]["split"] == "real"  # drawn, but not by the renderer
    assert {"mssd", "mspd", "add_s_01d", "found", "false_positives_per_image", "ms_per_image"} < set(
        content[0]
    )
    monkeypatch.setattr(table, "train_together", original)
    kept = (rows[1].run.folder / FIGURES).read_bytes()
    assert make_table(rows, out, [split], 2, 0.0) is True
    content = json.loads(out.read_text())
    assert [r["method"] for r in content] == ["teacher", "none", "none", "none"]
    assert content[3]["name"].endswith("width 16, depth 1: none, mean of 2 seeds")
    assert content[3]["seeds"] == 2
    names = ("seconds", "crops_per_second", "waiting_share", "step_ms", "peak_memory_mb")
    cost = {f"train_{name}" for name in names}
    assert all(cost < set(row) and min(row[name] for name in cost) > 0 for row in content)
    assert (rows[1].run.folder / FIGURES).read_bytes() == kept


def test_rows_of_several_seeds_get_their_mean(rows, tiny_data, tmp_path, monkeypatch):
    def measured(row, test, _):
        figure = len(row.run.name) + row.run.seed / 8
        return [{"found": figure, "parameters": 7, "date": "today"}]

    monkeypatch.setattr(table, "train_together", lambda configs: None)
    monkeypatch.setattr(table, "measured", measured)
    make_table(rows, tmp_path / "t.json", [tiny_data / "val"], 2, 0.0, 4)
    means = {r["method"]: r for r in json.loads((tmp_path / "t.json").read_text()) if "seeds" in r}
    row = means["adlp"]
    assert row["name"] == "keypoint, darknet-tiny-h, width 16, depth 1: adlp, mean of 2 seeds"
    assert row["seeds"] == 2 and row["seed"] == "0, 1" and row["found_std"] == pytest.approx(0.0884, abs=1e-4)
    assert "teacher" not in means and row["parameters"] == 7


def test_time_that_is_up_stops_it_between_steps(rows, tiny_data, tmp_path):
    endless = [dataclasses.replace(rows[0], run=dataclasses.replace(rows[0].run, steps=100_000))]
    assert make_table(endless, tmp_path / "t.json", [tiny_data / "val"], 2, 0.1) is False
    assert (rows[0].run.folder / "last.ckpt").exists()
    assert json.loads((tmp_path / "t.json").read_text()) == []


def test_a_stop_outside_training_says_why(rows, tiny_data, tmp_path, monkeypatch, capsys):
    def pressed(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(table, "train_together", pressed)
    assert make_table(rows[:1], tmp_path / "t.json", [tiny_data / "val"], 2, 0.0) is False
    assert "stopped: Ctrl-C, or the minutes are up; the same command goes on" in capsys.readouterr().out


def test_the_command_line_changes_teacher_and_students_alike(tmp_path):
    command = Table((tmp_path,), tmp_path / "t.json", data=tmp_path, size=128, batch_size=8, steps=3)
    teacher, student = command.configs()
    assert teacher.data == student.data == tmp_path and teacher.batch_size == student.batch_size == 8
    assert teacher.crops.size == student.crops.size == 128
    assert (student.steps, teacher.steps) == (3, 20_000) and teacher.network.classes == 8
    command = dataclasses.replace(command, objects=(5, 8), cache=tmp_path / "tiles", faults="skip")
    dense = command.configs("teacher_lmo_dense", "student_lmo_dense_none")
    for run in (*command.configs(), *dense):
        assert run.objects == (5, 8) and run.network.classes == 2 and run.faults == "skip"
        assert run.cache == tmp_path / "tiles"


def test_dense_rows_look_where_the_keypoint_teacher_finds(rows, tiny_data, tmp_path):
    big = settings(tiny_data, tmp_path, name="dense_teacher", network=DenseConfig(width=32))
    small = dataclasses.replace(big, name="dense", network=DenseConfig(width=16))
    teacher, student = rows[0].run, dataclasses.replace(rows[1].run, name="student")
    dense = dense_rows(big, small, -1.0, teacher.folder)
    full = offline_rows(teacher, student, 2, -1.0, dense=dense)
    assert order([r for r in full if r.run.network.family == "dense"]) == [
        ("teacher", 0), ("none", 0), ("adlp", 0), ("naive", 0),
    ]  # fmt: skip
    about = table.as_row(dense[1], tiny_data / "val", {}, "real")
    assert about["family"] == "dense" and about["network"] == "darknet-tiny-h, width 16"


def test_a_dense_row_is_measured_behind_its_locator_or_in_given_boxes(dense_data, tmp_path):
    network = DenseConfig(width=16)
    small = settings(dense_data, tmp_path, name="dense", network=network, steps=2, val_every=100)
    keypoint = settings(dense_data, tmp_path, name="keypoint", steps=2, val_every=100)
    for row in (Row("none", keypoint), Row("none", small, locator=keypoint.folder), Row("none", small)):
        train(row.run)
        (found,) = table.measured(row, [dense_data / "val"], 0)
        assert ("given_boxes" in found) == (row.run.network.family == "dense" and row.locator is None)
        assert found["images"] == 4 and found["gflop"] > 0
