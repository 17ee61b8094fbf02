# SPDX-License-Identifier: Apache-2.0
import argparse
import json
from html.parser import HTMLParser

import numpy as np
import pytest

from pose_kd_ros.evaluation.reports import compare


def run(*options: str) -> int:
    parser = argparse.ArgumentParser()
    compare.add_arguments(parser)
    return compare.main(parser.parse_args([str(option) for option in options]))


def test_the_front_is_what_nothing_dominates():
    #            fast poor, good, as fast as good but poorer, slower and poorer, slow best, unknown
    cost = [1.0, 2.0, 2.0, 3.0, 5.0, 0.5]
    gain = [0.3, 0.7, 0.6, 0.5, 0.9, np.nan]
    assert compare.front(cost, gain).tolist() == [True, True, False, False, True, False]


def test_equal_bundles_are_on_the_front_together():
    assert compare.front([1, 1], [0.5, 0.5]).tolist() == [True, True]


@pytest.fixture
def folders(write_outcome, tmp_path):
    bundles = {"teacher": (4.0, 0.93), "student": (1.0, 0.87), "poor": (2.0, 0.7)}
    return [write_outcome(tmp_path / n, name=n, latency=t, mssd=a) for n, (t, a) in bundles.items()]


def test_evaluations_that_are_there_are_compared(folders, tmp_path, capsys):
    assert run("--folders", *folders, "--out", tmp_path / "all") == 0
    printed = capsys.readouterr().out
    content = json.loads((tmp_path / "all" / "compare.json").read_text())
    rows = {row["name"]: row for row in content["bundles"]}
    assert content["accuracy"] == "mssd" and list(rows) == ["student", "poor", "teacher"]
    assert {name for name, row in rows.items() if row["on_front"]} == {"student", "teacher"}
    assert rows["teacher"]["p50_ms"] == pytest.approx(4 * rows["student"]["p50_ms"])
    assert rows["student"]["p95_ms"] >= rows["student"]["p50_ms"]
    assert rows["student"]["costs"] == {"size_mb": 7.4, "parameters": 1_870_000, "gflop": 2.31}
    assert all(name in printed for name in rows) and "93.0 %" in printed
    page = (tmp_path / "all" / "compare.html").read_text()
    HTMLParser().feed(page)
    assert "93.0 %" in page and "<svg" in page


def test_less_may_be_better(folders, tmp_path):
    for number, (folder, error) in enumerate(zip(folders, (0.003, 0.002, 0.001))):
        content = json.loads((folder / "summary.json").read_text())
        content["figures"]["median_translation_m"] = error
        content["bundle"]["name"] = f"bundle {number}"
        (folder / "summary.json").write_text(json.dumps(content))
    run("--folders", *folders, "--out", tmp_path / "all", "--accuracy", "median_translation_m")
    rows = json.loads((tmp_path / "all" / "compare.json").read_text())["bundles"]
    assert {row["name"]: row["on_front"] for row in rows} == {
        "bundle 1": True, "bundle 2": True, "bundle 0": False
    }  # fmt: skip


def test_bundles_of_one_name_are_told_apart(write_outcome, tmp_path):
    folders = [write_outcome(tmp_path / name) for name in ("fp32", "int8")]
    run("--folders", *folders, "--out", tmp_path)
    names = [row["name"] for row in json.loads((tmp_path / "compare.json").read_text())["bundles"]]
    assert names == ["cube_student (fp32)", "cube_student (int8)"]


def test_what_does_not_compare_is_refused(folders, write_outcome, tmp_path, capsys):
    other = write_outcome(tmp_path / "other", kind="bop")
    assert run("--folders", *folders, other, "--out", tmp_path) == 2
    assert run("--folders", *folders, "--out", tmp_path, "--accuracy", "mood") == 2
    assert run("--bop", "somewhere", "--out", tmp_path) == 2
    assert run("a/cube", "b/cube", "--bop", "somewhere", "--out", tmp_path) == 2
    errors = capsys.readouterr().err
    for text in ("kind: wanted the same", "found 'mood'", "wanted bundles", "of different names"):
        assert text in errors
