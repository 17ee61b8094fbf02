# SPDX-License-Identifier: Apache-2.0
"""Scores of results files: bop_toolkit's figures on real ones, and protocol by hand on a drawn data set."""

import json
import sys

import numpy as np
import pytest

pytest.importorskip("trimesh")

from pose_kd_ros.datasets.bop import BopTarget
from pose_kd_ros.datasets.bop.results import BopResult, read_results, write_results
from pose_kd_ros.datasets.faults import DatasetError
from pose_kd_ros.evaluation.__main__ import main
from pose_kd_ros.evaluation.score import score
from test.nodes.disc_bundle import TURN
from test.support.discs import write_discs
from test.support.recordings import ball_pose

PLACES = [(110, 100, 32), (180, 120, 36)]


@pytest.fixture
def balls(tmp_path):
    return write_discs(tmp_path / "balls", PLACES)


def true_results():
    return [BopResult(1, i, 1, 0.9, ball_pose(*place, TURN), 0.5) for i, place in enumerate(PLACES)]


def moved(result, metres, score=None):
    pose = result.T_camera_object.copy()
    pose[2, 3] += metres
    return BopResult(1, result.image_id, 1, score or result.score, pose, 0.5)


def test_megapose_on_all_200_images_is_as_bop_toolkit_says(shared_data, capsys):
    """bop_toolkit's own test expects MSSD 0.494118 and MSPD 0.606713."""
    oracle = shared_data / "oracles/bop19_lmo"
    results, truth = (str(next(oracle.glob(name))) for name in ("cnos-*.csv", "gt-*.csv"))
    command = ["score", "--bop", str(shared_data / "lmo"), "--results", results, "--truth", truth, "--json"]
    assert main(command) == 0
    figures = json.loads(capsys.readouterr().out)["figures"]
    assert figures["mssd"] == pytest.approx(0.494118, abs=1e-6)
    assert figures["mspd"] == pytest.approx(0.606713, abs=1e-6)
    assert figures["images"] == 200 and figures["instances"] == 1445 and "vsd" not in figures


def test_megapose_on_the_100_development_images(shared_data):
    """The data set's own list of targets, and scene_gt.json's poses."""
    results = read_results(next((shared_data / "oracles/bop19_lmo").glob("cnos-*.csv")))
    scored = score(shared_data / "lmo", results)
    assert scored.figures["mssd"] == pytest.approx(0.484, abs=5e-4)
    assert scored.figures["mspd"] == pytest.approx(0.587, abs=5e-4)
    assert scored.figures["instances"] == 717 and list(scored.objects) == "1 5 6 8 9 10 11 12".split()
    shares = [entry["add_s_01d"] * entry["instances"] for entry in scored.objects.values()]
    assert scored.figures["add_s_01d"] == pytest.approx(sum(shares) / 717)


def test_the_truth_scores_full_marks_vsd_too(balls):
    pytest.importorskip("open3d")
    figures = score(balls, true_results()).figures
    for name in ("mssd", "mspd", "vsd", "ar", "add_s_01d", "auc_add_s", "auc_adds", "within_5cm_5deg"):
        assert figures[name] == pytest.approx(1.0), name
    assert figures["ms_per_image"] == 500


def test_poses_12_mm_off_pass_the_thresholds_above(balls):
    # 12 mm of a diameter of 173: 0.069 d
    figures = score(balls, [moved(r, 0.012) for r in true_results()], with_vsd=False).figures
    assert figures["mssd"] == pytest.approx(0.9) and figures["add_s_01d"] == 1
    assert figures["auc_add_s"] == pytest.approx(0.5 * 0.12 + 0.88)  # one of two up to 12 mm, then both
    assert figures["within_2cm_2deg"] == 1 and "ar" not in figures


def test_only_as_many_as_are_asked_for_count_best_score_first(balls):
    first, second = true_results()
    results = [moved(first, 0.05, 0.95), first, second]
    figures = score(balls, results, with_vsd=False).figures
    assert figures["mssd_01d"] == 0.5  # the right pose of the first image has the lower score
    assert figures["precision_05d"] == pytest.approx(2 / 3)
    assert figures["false_positives_per_image"] == 0.5


def test_what_is_missing_counts_and_other_images_do_not(balls):
    first, _ = true_results()
    assert score(balls, [first], with_vsd=False).figures["mssd"] == 0.5
    assert score(balls, [first], [BopTarget(1, 0, 1, 1)], with_vsd=False).figures["mssd"] == 1.0


@pytest.mark.parametrize(
    "target, message",
    [
        (BopTarget(1, 0, 1, 2), "object 1 in scene 1, image 0: wanted 2, found 1 true poses"),
        (BopTarget(1, 7, 1, 1), "wanted scene 1, image 7, of the targets"),
        (BopTarget(1, 0, 9, 1), r"wanted objects of \[1, 2\], found \[9\]"),
        (BopTarget(1, 0, 2, 1), "object 2 in scene 1, image 0: wanted 1, found 0 true poses"),
    ],
)
def test_targets_that_do_not_fit_are_refused(balls, target, message):
    with pytest.raises(DatasetError, match=message):
        score(balls, true_results(), [target], with_vsd=False)


def test_the_table_has_a_column_an_object(balls, tmp_path, capsys):
    write_results(tmp_path / "r.csv", true_results())
    assert main(["score", "--bop", str(balls), "--results", str(tmp_path / "r.csv"), "--no-vsd"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["figure", "all", "1"]
    assert ["mssd", "1", "1"] in [row.split() for row in rows]


def test_what_could_not_be_measured_is_a_dash(balls, tmp_path, capsys):
    write_results(tmp_path / "r.csv", [])
    assert main(["score", "--bop", str(balls), "--results", str(tmp_path / "r.csv"), "--no-vsd"]) == 0
    printed = capsys.readouterr().out
    assert ["median_rotation_rad", "–", "–"] in [row.split() for row in printed.splitlines()]
    assert "nan" not in printed


def test_a_wrong_file_is_refused_in_one_line(balls, tmp_path, capsys):
    (tmp_path / "r.csv").write_text("1,0,1,0.5\n")
    assert main(["score", "--bop", str(balls), "--results", str(tmp_path / "r.csv")]) == 2
    assert capsys.readouterr().err.startswith(f"evaluate: {tmp_path / 'r.csv'}, line 1: wanted 7 columns")


def test_depth_without_open3d_is_refused_with_the_way_out(balls, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "open3d", None)
    write_results(tmp_path / "r.csv", true_results())
    assert main(["score", "--bop", str(balls), "--results", str(tmp_path / "r.csv")]) == 2
    assert "pip install open3d-cpu; on BOP data sets --no-vsd leaves VSD out" in capsys.readouterr().err


def test_symmetric_turns_cost_nothing(balls):
    info = json.loads((balls / "models/models_info.json").read_text())
    info["1"]["symmetries_continuous"] = [{"axis": [0, 0, 1], "offset": [0, 0, 0]}]
    (balls / "models/models_info.json").write_text(json.dumps(info))
    turned = true_results()
    for result in turned:
        result.T_camera_object[:3, :3] = result.T_camera_object[:3, :3] @ np.diag([-1.0, -1.0, 1.0])
    assert score(balls, turned, with_vsd=False).figures["mssd"] == 1.0
