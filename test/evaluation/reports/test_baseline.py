# SPDX-License-Identifier: Apache-2.0
import argparse
import math

import pytest

from pose_kd_ros.evaluation.outcome import OutcomeError, read_summary
from pose_kd_ros.evaluation.reports import baseline
from pose_kd_ros.evaluation.reports.meaning import HIGHER, LOWER, NEITHER, NOMINAL, meaning
from pose_kd_ros.evaluation.reports.page import refusing


def run(folder, *options: str) -> int:
    parser = argparse.ArgumentParser()
    baseline.add_arguments(parser)
    return refusing(lambda: baseline.check(parser.parse_args(options), read_summary(folder)))


@pytest.mark.parametrize(
    "name, better",
    [
        *[(n, HIGHER) for n in ("ar", "mssd", "mspd", "vsd", "mssd_01d", "add_s_01d", "add_s_01d_5")],
        *[(n, HIGHER) for n in ("found", "precision_05d", "auc_add", "within_5cm_5deg", "edge_agreement")],
        *[(n, LOWER) for n in ("median_rotation_rad", "median_translation_m", "median_mssd_d", "edge_px")],
        *[(n, LOWER) for n in ("ms_per_image", "latency_p95_ms", "false_positives_per_image", "id_switches")],
        *[(n, LOWER) for n in ("jitter_translation_m", "jitter_rotation_rad")],
        *[(n, NOMINAL) for n in ("coverage_50", "coverage_95")],
        *[(n, NEITHER) for n in ("images", "instances", "never_heard_of")],
    ],
)
def test_every_figure_knows_which_way_is_better(name, better):
    known = meaning(name)
    assert known.better == better
    worse = {HIGHER: (0.4, 0.5), LOWER: (0.5, 0.4)}.get(better)
    assert worse is None or known.loss(worse[0]) > known.loss(worse[1])


def test_coverage_is_best_at_its_nominal_value():
    assert meaning("coverage_90").loss(0.9) < meaning("coverage_90").loss(1.0)


@pytest.mark.parametrize(
    "name, value, shown",
    [
        ("mssd", 0.494118, "49.4 %"),
        ("found", 1.0, "100 %"),
        ("median_translation_m", 0.0031, "3.10 mm"),
        ("median_rotation_rad", math.pi / 180, "1.00°"),
        ("latency_p50_ms", 1234.5, "1234 ms"),
        ("images", 120, "120"),
        ("false_positives_per_image", 0.05, "0.05"),
        ("false_positives_per_image", 120.5, "120"),
        ("vsd", math.nan, "–"),
    ],
)
def test_figures_are_shown_in_the_units_of_people(name, value, shown):
    assert meaning(name).show(value) == shown


def test_the_same_evaluation_passes(write_outcome, tmp_path, capsys):
    out = write_outcome(tmp_path / "a")
    assert run(out, "--against", str(out / "summary.json")) == 0
    assert "figures as in the baseline" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change, options, code",
    [
        ({"mssd": 0.80}, [], 1),
        ({"mssd": 0.95}, [], 0),
        ({"mssd": 0.80}, ["--tolerance", "mssd=0.08"], 0),
        ({"mssd": 0.80}, ["--tolerance", "mssd=0.07"], 1),
        ({"mssd": 0.80}, ["--tolerance", "mssd=9%"], 0),
        ({"mssd": 0.80}, ["--default-tolerance", "0.1"], 0),
        ({"median_translation_m": 0.005}, [], 1),
        ({"median_translation_m": 0.003}, [], 0),
        ({"coverage_90": 0.99}, ["--tolerance", "coverage_90=0.02"], 1),
        ({"coverage_90": 0.95}, ["--tolerance", "coverage_90=0.0"], 0),
        ({"latency_p95_ms": 17.0}, [], 0),
        ({"latency_p95_ms": 17.0}, ["--tolerance", "latency_p95_ms=5%"], 1),
        ({"instances": 7}, [], 0),
        ({"mssd": None}, [], 1),
        ({"vsd": 0.2}, [], 0),
    ],
)
def test_a_figure_may_get_worse_by_its_tolerance_and_no_more(write_outcome, tmp_path, change, options, code):
    before, now = write_outcome(tmp_path / "before"), write_outcome(tmp_path / "now", **change)
    assert run(now, "--against", str(before), *options) == code


def test_the_table_names_what_changed_and_what_one_side_lacks(write_outcome, tmp_path, capsys):
    before = write_outcome(tmp_path / "before", only_before_px=2.0)
    now = write_outcome(tmp_path / "now", mssd=0.8, only_now_px=1.0)
    assert run(now, "--against", str(before), "--tolerance", "mssd=0.01") == 1
    table = capsys.readouterr().out.split("Against")[1]
    rows = {cells[0]: cells[1:] for cells in map(str.split, table.splitlines()) if cells}
    assert rows["mssd"] == ["87.2", "%", "80.0", "%", "1.00", "%", "REGRESSION"]
    assert rows["only_before_px"][-1] == "GONE" and rows["only_now_px"][-1] == "new"
    assert "mspd" not in rows


def test_one_object_may_not_hide_behind_the_others(write_outcome, tmp_path):
    before = read_summary(write_outcome(tmp_path / "a"))
    now = read_summary(write_outcome(tmp_path / "b"))
    now.objects["5"]["found"] = 0.5
    assert [c.figure for c in baseline.changes(before, now, {}) if c.verdict == "REGRESSION"] == ["5.found"]
    assert {c.verdict for c in baseline.changes(before, now, {"found": "0.5"})} == {"ok", "not compared"}


def test_other_data_and_unknown_figures_are_refused(write_outcome, tmp_path, capsys):
    bag, bop = write_outcome(tmp_path / "bag"), write_outcome(tmp_path / "bop", kind="bop")
    assert run(bag, "--against", str(bop)) == 2
    assert run(bag, "--against", str(bag), "--tolerance", "msd=1") == 2
    assert run(bag, "--against", str(bag), "--tolerance", "mssd") == 2
    assert run(bag, "--against", str(tmp_path / "nothing.json")) == 2
    errors = capsys.readouterr().err
    said = (
        "kind: wanted 'bop', as the baseline has, found 'bag'",
        "found 'msd'",
        "FIGURE=VALUE",
        "nothing.json",
    )
    assert all(text in errors for text in said)


@pytest.mark.parametrize("text", ["", "x", "-1", "5%%", "1e"])
def test_tolerances_are_numbers_or_shares(text):
    with pytest.raises(OutcomeError, match="tolerance"):
        baseline.parse_tolerance(text)
