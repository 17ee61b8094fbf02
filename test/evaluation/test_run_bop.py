# SPDX-License-Identifier: Apache-2.0
"""A bundle on a BOP data set from the command line, on balls whose poses are known."""

import io
import json
import shutil
import tarfile

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("trimesh")

from pose_kd_ros.datasets.bop import BopDataset
from pose_kd_ros.datasets.bop.results import read_results
from pose_kd_ros.datasets.meshes import load_ply_vertices
from pose_kd_ros.evaluation import console, looks, metrics, run_bop
from pose_kd_ros.evaluation.__main__ import main
from pose_kd_ros.evaluation.loading import load_estimator
from pose_kd_ros.evaluation.matching import match_image
from test.nodes.disc_bundle import write_disc_bundle
from test.support.discs import write_discs

PLACES = [(110 + 12 * i, 100 + 6 * i, 32 + i) for i in range(5)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_disc_bundle(tmp_path_factory.mktemp("bundles") / "discs")


@pytest.fixture
def data(tmp_path):
    """Balls that are 4 % farther than they look: an error of about 20 mm."""
    return write_discs(tmp_path / "balls", PLACES, true_scale=1.04)


def evaluated(data, bundle, out, *options):
    assert main(["--bop", str(data), "--bundle", str(bundle), "--out", str(out), *map(str, options)]) == 0
    return json.loads((out / "summary.json").read_text())


def lines(out):
    """All but the times."""
    records = [json.loads(line) for line in (out / "frames.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if k not in ("latency_ms", "stages_ms")} for r in records]


def test_figures_are_those_of_the_same_run_by_hand(data, bundle, tmp_path):
    summary = evaluated(data, bundle, tmp_path / "out", "--no-vsd")
    estimator, groups = load_estimator(str(bundle)), []
    points = {i: load_ply_vertices(data / f"models/obj_{i:06d}.ply") for i in (1, 2)}
    for look in looks.run(estimator, BopDataset(data / "test").images):
        groups += match_image(look.image, look.camera.width, look.found.poses, estimator.objects, points)
    wanted = metrics.figures(groups, 5, []) | metrics.add_recalls(groups)
    for name in wanted.keys() - {"ms_per_image"}:
        assert summary["figures"][name] == wanted[name], name
    assert 0.012 < summary["figures"]["median_translation_m"] < 0.03 and summary["figures"]["found"] == 1
    assert summary["objects"]["1"]["mssd"] == wanted["mssd"] and summary["kind"] == "bop"
    assert summary["source"] == "balls/test" and summary["frames"] == 5 and summary["faults"] == {}


def test_its_results_file_scores_as_it_does(data, bundle, tmp_path, capsys):
    pytest.importorskip("open3d")
    out = tmp_path / "out"
    figures = evaluated(data, bundle, out)["figures"]
    capsys.readouterr()
    assert main(["score", "--bop", str(data), "--results", str(out / "results.csv"), "--json"]) == 0
    scored = json.loads(capsys.readouterr().out)
    for name in ("mssd", "mspd", "vsd", "ar", "add_s_01d", "found", "auc_adds", "ms_per_image"):
        assert scored["figures"][name] == pytest.approx(figures[name], abs=1e-9), name
    assert 0 < figures["vsd"] < 1
    assert figures["ar"] == pytest.approx((figures["mssd"] + figures["mspd"] + figures["vsd"]) / 3)


def test_each_image_has_one_time_and_results_carry_it(data, bundle, tmp_path):
    evaluated(data, bundle, tmp_path / "out", "--no-vsd")
    records = [json.loads(line) for line in (tmp_path / "out/frames.jsonl").read_text().splitlines()]
    times = {r["camera"]: r["latency_ms"] / 1e3 for r in records}
    results = read_results(tmp_path / "out/results.csv")
    assert len(results) == sum(len(r["estimates"]) for r in records) == 5
    for result in results:
        assert result.seconds == times[f"{result.scene_id:06d}/{result.image_id:06d}"]


def test_a_run_that_was_stopped_ends_as_one_that_was_not(data, bundle, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    figures = evaluated(data, bundle, whole, "--no-vsd")["figures"]
    looks = iter(range(3))

    def stopped(*arguments):
        if next(looks, None) is None:
            raise KeyboardInterrupt
        return frame_of_image(*arguments)

    frame_of_image = run_bop.frame_of_image
    monkeypatch.setattr(run_bop, "frame_of_image", stopped)
    command = ["--bop", str(data), "--bundle", str(bundle), "--out", str(parts), "--no-vsd"]
    assert main(command) == console.STOPPED and len(lines(parts)) == 3
    with open(parts / "frames.jsonl", "a") as file:
        file.write('{"frame": 3, "cam')
    monkeypatch.undo()
    resumed = evaluated(data, bundle, parts, "--no-vsd")["figures"]
    assert lines(parts) == lines(whole)
    for name in figures.keys() - {*run_bop.TIMES}:
        assert resumed[name] == figures[name], name


def test_another_run_is_not_gone_on_with(data, bundle, tmp_path, capsys):
    evaluated(data, bundle, tmp_path / "out", "--no-vsd", "--limit", 1)
    command = ["--bop", str(data), "--bundle", str(bundle), "--out", str(tmp_path / "out"), "--given-boxes"]
    assert main(command) == console.REFUSED
    assert "given_boxes: False, now True" in capsys.readouterr().err


def test_both_layouts_give_the_same(data, bundle, tmp_path, to_shards):
    to_shards(data / "test", tmp_path / "sharded/test", per_shard=2)
    shutil.copytree(data / "models", tmp_path / "sharded/models")
    evaluated(data, bundle, tmp_path / "a", "--no-vsd")
    evaluated(tmp_path / "sharded", bundle, tmp_path / "b", "--no-vsd")
    assert lines(tmp_path / "a") == lines(tmp_path / "b")


def test_a_damaged_picture_is_named_and_the_others_count(data, bundle, tmp_path):
    (data / "test/000001/rgb/000002.png").write_bytes(b"no picture")
    out = tmp_path / "out"
    command = ["--bop", str(data), "--bundle", str(bundle), "--out", str(out), "--no-vsd"]
    assert main(command) == console.DAMAGED
    summary = json.loads((out / "summary.json").read_text())
    (fault,) = summary["faults"]
    assert fault.startswith("test/000001/rgb/000002.png: cannot be decoded") and summary["frames"] == 4


def test_a_dense_bundle_wants_to_be_told_where_to_look(data, tmp_path, capsys):
    dense = write_disc_bundle(tmp_path / "dense", "dense")
    command = ["--bop", str(data), "--bundle", str(dense), "--out", str(tmp_path / "out"), "--no-vsd"]
    assert main(command) == console.REFUSED
    refusal = capsys.readouterr().err
    assert "--given-boxes" in refusal and "export it with --locator" in refusal
    told = evaluated(data, dense, tmp_path / "out", "--no-vsd", "--given-boxes")
    assert told["figures"]["given_boxes"] == 1 and told["figures"]["found"] == 1


@pytest.mark.parametrize("family", ["dense", "heatmap"])
def test_a_bundle_with_a_locator_needs_not_be_told(data, bundle, tmp_path, family):
    both = write_disc_bundle(tmp_path / "both", family, bundle)
    out = tmp_path / "out"
    summary = evaluated(data, both, out, "--no-vsd")
    assert summary["figures"]["found"] == 1 and "given_boxes" not in summary["figures"]
    assert "locate_network" in json.loads((out / "frames.jsonl").read_text().splitlines()[0])["stages_ms"]
    assert summary["bundle"]["parameters"] == 32 and summary["bundle"]["family"] == family
    sizes = [path.stat().st_size for path in both.rglob("*") if path.is_file()]
    assert summary["bundle"]["size_mb"] == round(sum(sizes) / 1e6, 3)


def test_another_object_of_the_same_number_is_refused(data, bundle, tmp_path, capsys):
    path = data / "models/models_info.json"
    info = json.loads(path.read_text())
    info["1"]["diameter"] = 100.0
    path.write_text(json.dumps(info))
    command = ["--bop", str(data), "--bundle", str(bundle), "--out", str(tmp_path / "out")]
    assert main(command) == console.REFUSED
    assert "wanted the diameter of the bundle's red_ball, 0.1732 m, found 0.1 m" in capsys.readouterr().err


def test_frames_hold_what_the_images_hold(data, bundle, tmp_path):
    evaluated(data, bundle, tmp_path / "out", "--no-vsd", "--limit", 2)
    first, second = lines(tmp_path / "out")
    assert (first["camera"], second["camera"]) == ("000001/000000", "000001/000001")
    true, found = (np.reshape(first[k][0]["T_camera_object"], (4, 4)) for k in ("truth", "estimates"))
    assert true[2, 3] / found[2, 3] == pytest.approx(1.04, abs=0.02)
    assert first["errors"][0]["translation_m"] == pytest.approx(np.linalg.norm(true[:3, 3] - found[:3, 3]))


@pytest.mark.parametrize("shards", [False, True])
def test_without_published_truth_there_are_results_to_send_in(data, bundle, tmp_path, to_shards, shards):
    told = evaluated(data, bundle, tmp_path / "told", "--no-vsd")
    if shards:
        to_shards(data / "test", tmp_path / "sharded/test")
        shutil.copytree(data / "models", tmp_path / "sharded/models")
        data = tmp_path / "sharded"
        for path in (data / "test").glob("*.tar"):
            without_truth(path)
    else:
        for path in data.glob("test/*/scene_gt*.json"):
            path.unlink()
    summary = evaluated(data, bundle, tmp_path / "out")
    assert (tmp_path / "out/results.csv").read_text().count("\n") == 6
    poses = [[r.T_camera_object for r in read_results(tmp_path / n / "results.csv")] for n in ("out", "told")]
    np.testing.assert_array_equal(*poses)
    found = summary["figures"]
    assert found["images"] == 5 and found["found_rate"] == 1 and found["ms_per_image"] > 0
    assert "mssd" not in found and "mssd" in told["figures"] and summary["curves"] == {}
    page = (tmp_path / "out/report.html").read_text()
    assert "frames with a pose" in page and "false alarms" not in page


def without_truth(path):
    """Take the true poses out of a shard."""
    with tarfile.open(path) as tar:
        members = [(m, tar.extractfile(m).read()) for m in tar if ".gt" not in m.name]
    with tarfile.open(path, "w") as tar:
        for member, content in members:
            tar.addfile(member, io.BytesIO(content))


def test_given_boxes_want_truth(data, bundle, tmp_path, capsys):
    for path in data.glob("test/*/scene_gt*.json"):
        path.unlink()
    command = ["--bop", str(data), "--bundle", str(bundle), "--out", str(tmp_path / "out"), "--given-boxes"]
    assert main(command) == 2
    assert "--given-boxes: wanted true poses of all images" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["out", "out/summary.json"])
def test_a_baseline_that_would_be_written_over_is_refused(
    data, bundle, tmp_path, write_outcome, capsys, name
):
    """Compared with itself nothing is ever worse."""
    before = (write_outcome(tmp_path / "out") / "summary.json").read_bytes()
    command = ["--bop", str(data), "--bundle", str(bundle), "--out", str(tmp_path / "out"), "--fresh"]
    assert main([*command, "--against", str(tmp_path / name)]) == 2
    assert "would be written over" in capsys.readouterr().err
    assert (tmp_path / "out/summary.json").read_bytes() == before


def test_a_scene_that_lost_its_truth_is_told_and_not_judged(data, bundle, tmp_path, capsys):
    scene = shutil.copytree(data / "test/000001", data / "test/000002")
    for path in scene.glob("scene_gt*.json"):
        path.unlink()
    summary = evaluated(data, bundle, tmp_path / "out", "--no-vsd", "--fresh")
    told = "5 of 10 images have no true poses (scene_gt): not measured"
    assert summary["faults"] == {told: 5} and told in capsys.readouterr().err
    judged = [line["judged"] for line in lines(tmp_path / "out")]
    assert judged == [True] * 5 + [False] * 5 and summary["figures"]["found"] == 1


def test_refinement_uses_the_data_sets_meshes_where_the_bundle_has_none(data, bundle, tmp_path, capsys):
    pytest.importorskip("open3d")
    plain = evaluated(data, bundle, tmp_path / "plain", "--no-vsd")
    capsys.readouterr()
    refined = evaluated(data, bundle, tmp_path / "refined", "--no-vsd", "--refine", "edges")
    assert "refined on edges: poses: 5 refined" in capsys.readouterr().err
    stages = json.loads((tmp_path / "refined" / "frames.jsonl").read_text().splitlines()[0])["stages_ms"]
    assert "refine" in stages
    error, before = (each["figures"]["median_translation_m"] for each in (refined, plain))
    assert error != before and error < 1.5 * before  # the balls look nearer than they are: edges say so, too
    command = ["--bop", str(data), "--bundle", str(bundle), "--out", str(tmp_path / "refined"), "--no-vsd"]
    assert main(command) == console.REFUSED
    assert "refine" in capsys.readouterr().err


def test_depth_images_tell_the_distance_that_a_picture_cannot(data, bundle, tmp_path, capsys):
    pytest.importorskip("open3d")
    plain = evaluated(data, bundle, tmp_path / "plain", "--no-vsd")
    refined = evaluated(data, bundle, tmp_path / "refined", "--no-vsd", "--depth")
    assert "refined on depth: poses: 5 refined" in capsys.readouterr().err
    error, before = (each["figures"]["median_translation_m"] for each in (refined, plain))
    assert before > 0.015 and error < 0.003
