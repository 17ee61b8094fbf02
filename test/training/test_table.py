"""The table of methods: every row in its order, stopped and gone on with, nothing invented."""

import dataclasses
import json

import pytest

torch = pytest.importorskip("torch")

from training import table  # noqa: E402
from training.__main__ import Table  # noqa: E402
from training.models.network import NetworkConfig  # noqa: E402
from training.table import FIGURES, make_table, plan  # noqa: E402
from training.train import Stopped  # noqa: E402

from .test_train import settings  # noqa: E402


@pytest.fixture
def rows(tiny_data, tmp_path):
    teacher = settings(
        tiny_data, tmp_path, name="teacher", steps=2, network=NetworkConfig(width=32, depth=1, groups=4)
    )
    student = settings(tiny_data, tmp_path, name="student", steps=2, val_every=100)
    return plan(teacher, student, seeds=2, floor=-1.0)


def test_what_counts_most_comes_first_and_rows_differ_in_the_method_alone(rows):
    order = [(row.method, row.run.seed) for row in rows[:5]]
    assert order == [("teacher", 0), ("none", 0), ("adlp", 0), ("none", 1), ("adlp", 1)]
    methods = [row.method for row in rows]
    assert {"naive", "fkd", "adlp+fkd", "adlp, released form", "adlp, uncertainty"} < set(methods)
    plain = rows[1].run
    for row in rows[2:]:
        same = dataclasses.replace(
            row.run, name=plain.name, distill=plain.distill, seed=plain.seed, steps=plain.steps
        )
        assert same == plain
    assert len({row.run.name for row in rows}) == len(rows)
    assert rows[-1].run.steps == 2 * plain.steps


def test_rows_that_are_there_are_kept_and_those_not_reached_say_so(rows, tiny_data, tmp_path, monkeypatch):
    out, split = tmp_path / "out" / "table.json", tiny_data / "val"
    trained = []

    def stop_at_the_third(config):
        if len(trained) == 2:
            raise Stopped("enough")
        trained.append(config.name)
        return original(config)

    original = table.train
    monkeypatch.setattr(table, "train", stop_at_the_third)
    assert make_table(rows[:4], out, [split], 2, 0.0) is False
    content = json.loads(out.read_text())
    assert [r["status"] for r in content] == ["measured", "measured", "not run", "not run"]
    assert (
        content[0]["method"] == "teacher" and content[0]["split"] == "real"
    )  # drawn, but not by the renderer
    assert {"mssd", "mspd", "add_s_01d", "found", "false_positives_per_image", "ms_per_image"} < set(
        content[0]
    )
    assert not {"mssd", "found"} & set(content[2])
    monkeypatch.setattr(table, "train", original)
    kept = (rows[1].run.folder / FIGURES).read_bytes()
    assert make_table(rows[:4], out, [split], 2, 0.0) is True
    assert [r["status"] for r in json.loads(out.read_text())] == ["measured"] * 4
    assert (rows[1].run.folder / FIGURES).read_bytes() == kept


def test_time_that_is_up_stops_it_between_steps(rows, tiny_data, tmp_path):
    endless = [dataclasses.replace(rows[0], run=dataclasses.replace(rows[0].run, steps=100_000))]
    assert make_table(endless, tmp_path / "t.json", [tiny_data / "val"], 2, 0.1) is False
    assert (rows[0].run.folder / "last.ckpt").exists()
    assert json.loads((tmp_path / "t.json").read_text())[0]["status"] == "not run"


def test_the_command_line_changes_teacher_and_students_alike(tmp_path):
    command = Table((tmp_path,), tmp_path / "t.json", data=tmp_path, size=128, batch_size=8, steps=3)
    teacher, student = command.configs()
    assert teacher.data == student.data == tmp_path and teacher.batch_size == student.batch_size == 8
    assert teacher.crops.size == student.crops.size == 128
    assert (student.steps, teacher.steps) == (3, 20_000) and teacher.network.classes == 8
