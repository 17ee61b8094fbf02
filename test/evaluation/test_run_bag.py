# SPDX-License-Identifier: Apache-2.0
"""The command line on recordings of a disc that a hand-written bundle takes for a ball."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest

pytest.importorskip("rosbags")
pytest.importorskip("onnx")
from disc_bundle import TURN, write_disc_bundle
from recordings import (
    FRAME,
    RADIUS,
    ball_pose,
    disc,
    disc_messages,
    header,
    image_at,
    info_at,
    make,
    path_of,
    pose_message,
    stamps,
    tf_at,
    write,
)

from pose_kd_ros.core.object_model import box_corners
from pose_kd_ros.core.pose import to_quaternion
from pose_kd_ros.core.track import Tracker
from pose_kd_ros.evaluation import run_bag
from pose_kd_ros.evaluation.__main__ import main
from pose_kd_ros.evaluation.frame import TIMES
from pose_kd_ros.evaluation.loading import load_follower
from pose_kd_ros.evaluation.shapes import BOX_FACES
from pose_kd_ros.pipeline.follow import ObjectFollower
from pose_kd_ros.recordings.bags import open_bag
from standalone.bag_writer import Pinhole, write_bag

COUNT = 8


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return str(write_disc_bundle(tmp_path_factory.mktemp("bundles") / "discs"))


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    """The disc, and the ball's true pose on TF."""
    poses = [ball_pose(*place, TURN) for place in path_of(COUNT)]
    truth = [tf_at(stamp, FRAME, "ball", pose) for stamp, pose in zip(stamps(COUNT), poses)]
    return write(tmp_path_factory.mktemp("bags") / "bag", [*disc_messages(COUNT), *truth])


def run(*arguments):
    return main([str(argument) for argument in arguments])


def lines(out):
    """frames.jsonl without what is no two times the same."""
    records = [json.loads(line) for line in (out / "frames.jsonl").read_text().splitlines()]
    return [json.dumps({k: v for k, v in record.items() if k not in TIMES}) for record in records]


def summary(out):
    return json.loads((out / "summary.json").read_text())


def test_a_run_with_truth_writes_what_the_contract_says(bag, bundle, tmp_path, capsys):
    options = ("--truth", "tf:ball", "--object", "ball=1", "--mesh", "1=box")
    assert run(bag, "--bundle", bundle, "--out", tmp_path / "out", *options) == 0
    written = summary(tmp_path / "out")
    assert (written["schema"], written["kind"], written["source"], written["frames"]) == (
        1,
        "bag",
        "bag",
        COUNT,
    )
    assert written["bundle"]["name"] == "discs" and len(written["bundle"]["sha256"]) == 64
    found = written["figures"]
    assert (
        found["found"] == 1 and found["mssd_01d"] == 1 and found["id_switches"] == 0 and found["tracks"] == 1
    )
    assert found["median_translation_m"] < 0.01 and found["false_positives_per_image"] == 0
    assert written["objects"]["1"]["class_name"] == "red_ball" and written["objects"]["1"]["found"] == 1
    assert written["curves"]["mssd"]["y"][-1] == 1 and written["faults"] == {}
    record = json.loads((tmp_path / "out" / "frames.jsonl").read_text().splitlines()[3])
    assert record["frame"] == 3 and record["stamp_ns"] == stamps(COUNT)[3] and record["camera"] == FRAME
    (estimate,), (error,) = record["estimates"], record["errors"]
    assert estimate["state"] == "tracked" and estimate["consistency_px"] < 5 and estimate["sigma_px"] > 0
    assert error["estimate"] == 0 and error["translation_m"] < 0.01
    assert "mssd_01d" in capsys.readouterr().out


def test_results_are_in_bop_s_format(bag, bundle, tmp_path):
    run(bag, "--bundle", bundle, "--out", tmp_path)
    head, *rows = (tmp_path / "results.csv").read_text().splitlines()
    assert head == "scene_id,im_id,obj_id,score,R,t,time" and len(rows) == COUNT
    scene, image, object_id, score, R, t, seconds = rows[2].split(",")
    wanted = ball_pose(*path_of(COUNT)[2], TURN)
    assert (scene, image, object_id) == ("0", "2", "1") and 0 < float(score) <= 1 and float(seconds) > 0
    np.testing.assert_allclose([float(v) for v in t.split()], 1e3 * wanted[:3, 3], atol=10)
    np.testing.assert_allclose([float(v) for v in R.split()], wanted[:3, :3].reshape(-1), atol=0.1)


def test_the_same_bytes_twice_and_after_a_break(bag, bundle, tmp_path):
    options = (bag, "--bundle", bundle, "--truth", "tf:ball", "--object", "ball=1")
    assert run(*options, "--out", tmp_path / "whole") == 0
    assert run(*options, "--out", tmp_path / "again") == 0
    assert run(*options, "--out", tmp_path / "parts", "--limit", 3) == 0
    with open(tmp_path / "parts" / "frames.jsonl", "ab") as file:
        file.write(b'{"frame": 3, "stamp')  # a line that a kill cut short
    assert run(*options, "--out", tmp_path / "parts", "--limit", 5) == 0
    assert run(*options, "--out", tmp_path / "parts") == 0
    assert lines(tmp_path / "again") == lines(tmp_path / "parts") == lines(tmp_path / "whole")
    timeless = [
        {
            key: value
            for key, value in summary(tmp_path / name).items()
            if key not in ("environment", "figures")
        }
        for name in ("whole", "parts")
    ]
    assert timeless[0] == timeless[1]
    assert run(*options, "--out", tmp_path / "parts") == 0  # nothing left to do
    assert len(lines(tmp_path / "parts")) == COUNT


def test_another_evaluation_is_not_continued(bag, bundle, tmp_path, capsys):
    run(bag, "--bundle", bundle, "--out", tmp_path, "--limit", 2)
    assert run(bag, "--bundle", bundle, "--out", tmp_path, "--object-scale", 1.1) == 2
    assert "another evaluation (object_scale: 1.0, now 1.1)" in capsys.readouterr().err
    assert run(bag, "--bundle", bundle, "--out", tmp_path, "--object-scale", 1.1, "--fresh") == 0
    assert len(lines(tmp_path)) == COUNT


@pytest.mark.parametrize("columns", [7, 16])
def test_truth_from_a_file_gives_the_figures_of_truth_from_tf(bag, bundle, tmp_path, columns):
    rows = [",".join(["frame", "object_id", *map(str, range(columns))])]
    for number, place in enumerate(path_of(COUNT)):
        pose = ball_pose(*place, TURN)
        values = pose.reshape(-1) if columns == 16 else [*pose[:3, 3], *to_quaternion(pose[:3, :3])]
        rows.append(",".join(str(value) for value in (number, 1, *values)))
    (tmp_path / "truth.csv").write_text("\n".join(rows))
    run(bag, "--bundle", bundle, "--out", tmp_path / "file", "--truth", tmp_path / "truth.csv")
    run(bag, "--bundle", bundle, "--out", tmp_path / "tf", "--truth", "tf:ball", "--object", "ball=1")
    file, tf = (summary(tmp_path / name)["figures"] for name in ("file", "tf"))
    assert file["mssd"] == tf["mssd"] and file["auc_adds"] == pytest.approx(tf["auc_adds"])


def test_a_truncated_recording_is_evaluated_up_to_the_cut(bag, bundle, tmp_path, capsys):
    data = next(bag.glob("*.mcap")).read_bytes()
    (tmp_path / "cut.mcap").write_bytes(data[: int(len(data) * 0.8)])
    assert run(tmp_path / "cut.mcap", "--bundle", bundle, "--out", tmp_path / "out") == 3
    written = summary(tmp_path / "out")
    assert 0 < written["frames"] < COUNT and written["figures"]["found_rate"] == 1
    assert list(written["faults"]) == ["cut.mcap is damaged: File end magic is invalid."]
    assert "fault (1 x): cut.mcap is damaged" in capsys.readouterr().err
    run(bag, "--bundle", bundle, "--out", tmp_path / "whole")
    assert lines(tmp_path / "whole")[: written["frames"]] == lines(tmp_path / "out")


def test_refusals_say_why(bag, bundle, tmp_path, capsys):
    for arguments, text in [
        ((tmp_path / "none", "--bundle", bundle), "No recording at"),
        ((bag, "--bundle", "nothing"), "bundle: wanted a folder or one of the installed cube"),
        ((bag, "--bundle", bundle, "--truth", "tf:ball"), "found 'ball'"),
        ((bag, "--bundle", bundle, "--object", "ball"), "--object: wanted NAME=ID"),
        ((bag, "--bundle", bundle, "--mesh", "7=box"), "--mesh: wanted ID=box with an ID of 1, 2"),
        ((bag, "--bundle", bundle, "--camera", "/tf"), "/tf: wanted sensor_msgs"),
    ]:
        assert run(*arguments, "--out", tmp_path / "out") == 2
        assert text in capsys.readouterr().err


def test_a_bundle_with_a_locator_finds_and_follows(bag, bundle, tmp_path, capsys):
    dense = write_disc_bundle(tmp_path / "dense", "dense")
    assert run(bag, "--bundle", dense, "--out", tmp_path / "out") == 2
    assert "found one of the dense family, which needs regions: export it" in capsys.readouterr().err
    both = write_disc_bundle(tmp_path / "both", "dense", bundle)
    assert run(bag, "--bundle", both, "--out", tmp_path / "out", "--limit", 3) == 0
    records = [json.loads(line) for line in lines(tmp_path / "out")]
    assert [r["estimates"][0]["state"] for r in records] == ["new", "tracked", "tracked"]


PLY = """ply
format ascii 1.0
element vertex 8
property float x
property float y
property float z
element face 6
property list uchar int vertex_indices
end_header
"""


def test_a_mesh_file_in_millimetres_is_what_errors_are_measured_over(bag, bundle, tmp_path):
    pytest.importorskip("open3d")
    corners = 1e3 * box_corners((0, 0, 0), (2 * RADIUS,) * 3)
    rows = [" ".join(map(str, corner)) for corner in corners]
    rows += [" ".join(map(str, (4, *face))) for face in BOX_FACES]
    (tmp_path / "ball.ply").write_text(PLY + "\n".join(rows) + "\n")
    options = ("--truth", "tf:ball", "--object", "ball=1", "--bundle", bundle)
    for name, mesh in (("box", "1=box"), ("file", f"1={tmp_path / 'ball.ply'}")):
        assert run(bag, *options, "--out", tmp_path / name, "--mesh", mesh) == 0
    box, file = (summary(tmp_path / name)["objects"]["1"] for name in ("box", "file"))
    assert file["mssd"] == box["mssd"] and file["edge_agreement"] == pytest.approx(box["edge_agreement"])


def test_pictures_out_of_order_are_left_out_and_a_loop_begins_anew(bundle, tmp_path):
    order = [0, 1, 3, 2, 4, 0, 1, 2]  # numbers of stamps; 2 comes late, then the recording loops
    moments = [stamps(COUNT)[i] + 6 * 10**9 * (i > 3) for i in order]
    pictures = [image_at("/image", i, disc(*path_of(COUNT)[k])) for i, k in enumerate(order)]
    for (*_, message), moment in zip(pictures, moments):
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(moment, 10**9)
    path = write(tmp_path / "bag", [info_at("/info", 0), *pictures])
    for out, limits in (("whole", [None]), ("parts", [3, 4, None])):
        for limit in limits:
            extra = ("--limit", limit) if limit else ()
            assert run(path, "--bundle", bundle, "--out", tmp_path / out, *extra) == 0
        assert summary(tmp_path / out)["faults"] == {run_bag.LATE: 1}
    assert lines(tmp_path / "whole") == lines(tmp_path / "parts")
    records = [json.loads(line) for line in lines(tmp_path / "whole")]
    assert [record["frame"] for record in records] == [0, 1, 2, 4, 5, 6, 7]
    assert records[4]["estimates"][0]["state"] == "new" and records[4]["estimates"][0]["track_id"] == 1


def test_two_bundles_side_by_side(bag, bundle, tmp_path, capsys):
    assert run(bag, "--bundle", bundle, "--bundle", bundle, "--out", tmp_path) == 0
    assert lines(tmp_path / "discs") == lines(tmp_path / "discs_2")
    written = json.loads((tmp_path / "differences.json").read_text())
    assert written["bundles"] == ["discs", "discs_2"]
    assert written["figures"]["consistency_px"]["differences"] == [0.0]
    assert "difference" in capsys.readouterr().out


def test_estimates_are_what_the_follower_of_the_node_says(bag, bundle, tmp_path):
    """Its defaults are the node's parameters', see the test of the node's."""
    run(bag, "--bundle", bundle, "--out", tmp_path)
    follower = load_follower(bundle)
    from pose_kd_ros.recordings.images import BagImages

    with open_bag(bag) as recording:
        for line, frame in zip(lines(tmp_path), BagImages(recording).frames()):
            (track,) = follower.process(run_bag.seconds(frame), frame.image, frame.camera).tracks
            assert track.pose.reshape(-1).tolist() == json.loads(line)["estimates"][0]["T_camera_object"]


def test_the_pipeline_is_the_node_s_with_its_default_parameters(bundle):
    pytest.importorskip("rclpy")
    from pose_kd_ros.nodes.parameters import Settings
    from pose_kd_ros.nodes.processing import make_follower

    ours = load_follower(bundle)
    theirs = make_follower(load_follower(bundle).estimator, Settings())

    def settings(follower):
        tracker, estimator = follower.tracker, follower.estimator
        own = follower.search_period, follower.max_instances, follower.search
        return *own, tracker.ttl, tracker.smooth, estimator.cell_score, estimator.pose_score

    assert settings(ours) == settings(theirs)


def test_a_restored_follower_goes_on_with_the_same_bits(bundle, bag):
    from pose_kd_ros.recordings.images import BagImages

    whole, part, state = load_follower(bundle), load_follower(bundle), {}
    with open_bag(bag) as recording:
        for index, frame in enumerate(BagImages(recording).frames()):
            if index == 4:
                part = ObjectFollower(part.estimator, Tracker(part.estimator.objects))
                part.restore(json.loads(json.dumps(state)))
            results = [f.process(run_bag.seconds(frame), frame.image, frame.camera) for f in (whole, part)]
            state = part.state()
            a, b = (result.tracks[0] for result in results)
            assert (
                a.pose.tolist() == b.pose.tolist()
                and a.motion.velocity.tolist() == b.motion.velocity.tolist()
            )
            assert (a.age, a.hits, a.id, a.state) == (b.age, b.hits, b.id, b.state)


def test_the_command_runs_without_ros(bag, bundle, tmp_path):
    code = (
        "import sys\nfor name in ('rclpy', 'sensor_msgs', 'ament_index_python'):\n"
        " sys.modules[name] = None\n"
        "from pose_kd_ros.evaluation.__main__ import main\nsys.exit(main())"
    )
    command = [
        sys.executable,
        "-c",
        code,
        str(bag),
        "--bundle",
        bundle,
        "--out",
        str(tmp_path),
        "--limit",
        "2",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "found_rate" in done.stdout and len(lines(tmp_path)) == 2


def test_help_lists_what_there_is(capsys):
    assert run("--help") == 0
    assert "evaluate score" in capsys.readouterr().out
    with pytest.raises(SystemExit) as leaving:
        run("some_bag")
    assert leaving.value.code == 2 and "--bundle" in capsys.readouterr().err


@pytest.fixture(scope="module")
def cube_bag(shared_data, tmp_path_factory):
    """Six real pictures of a block cube 85 mm wide, and its poses as a file."""
    folder, out = shared_data / "visp_rbt", tmp_path_factory.mktemp("cube")
    content = json.loads((folder / "poses_checked.json").read_text())
    frames = [one for one in content["frames"] if one["index"] in content["tracked_cube_frames"]][:6]
    K = np.array(content["K"])
    pictures = [cv2.imread(str(folder / one["rgb"])) for one in frames]
    camera = Pinhole(pictures[0].shape[1], pictures[0].shape[0], K[0, 0], K[1, 1], K[0, 2], K[1, 2])
    write_bag(out / "cube", pictures, camera, rate=30)
    rows = ["frame,object_id," + ",".join(f"t{i}" for i in range(16))]
    for number, one in enumerate(frames):
        pose = np.array(one["objects"]["cube"]["T_cam_objfile_tracked"]).reshape(-1)
        rows.append(",".join(str(value) for value in (number, 1, *pose)))
    (out / "truth.csv").write_text("\n".join(rows))
    return out


def test_the_shipped_bundle_on_real_pictures_with_truth(cube_bag, tmp_path):
    options = ("--truth", cube_bag / "truth.csv", "--mesh", "box", "--object-scale", 85 / 84)
    assert run(cube_bag / "cube", "--bundle", "cube", "--out", tmp_path, *options) == 0
    found = summary(tmp_path)["figures"]
    assert found["instances"] == found["images"] == 6 and 0 <= found["found"] <= 1
    truth = [json.loads(line)["truth"] for line in lines(tmp_path)]
    assert [one["visib_fract"] for (one,) in truth] == [1.0] * 6


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--against", "nowhere"), "nowhere: cannot be read"),
        (("--against", "{base}", "--tolerance", "mssd"), "wanted FIGURE=VALUE"),
        (("--against", "{base}", "--default-tolerance", "little"), "found 'little'"),
    ],
)
def test_a_baseline_that_cannot_be_used_is_refused_before_the_work(
    bag, bundle, write_outcome, tmp_path, capsys, options, words
):
    base = write_outcome(tmp_path / "base")
    options = [option.format(base=base) for option in options]
    assert run(bag, "--bundle", bundle, "--out", tmp_path / "out", *options) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_finished_run_says_so_and_other_code_does_not_go_on(bag, bundle, tmp_path, capsys, monkeypatch):
    assert run(bag, "--bundle", bundle, "--out", tmp_path / "out") == 0
    assert "nothing was left to do" not in capsys.readouterr().err
    assert run(bag, "--bundle", bundle, "--out", tmp_path / "out") == 0
    assert "nothing was left to do; --fresh evaluates again" in capsys.readouterr().err
    monkeypatch.setattr("pose_kd_ros.evaluation.progress.code", lambda: "next")
    assert run(bag, "--bundle", bundle, "--out", tmp_path / "out") == 2
    assert "holds another evaluation (code: " in capsys.readouterr().err


def test_ctrl_c_anywhere_is_one_line(capsys, monkeypatch):
    def pressed(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pose_kd_ros.evaluation.score.main", pressed)
    assert run("score", "--bop", "x", "--results", "y") == 130
    assert capsys.readouterr().err == "stopped; the same command goes on with what is there\n"


@pytest.mark.parametrize("late_ns", [2_000_000, 111_000_000_000])
def test_truth_at_other_times_than_the_images_fails(bundle, tmp_path, capsys, late_ns):
    made = "geometry_msgs/PoseArray"
    poses = [pose_message(ball_pose(*place, TURN)) for place in path_of(COUNT)]
    truth = [
        (
            "/truth",
            "geometry_msgs/msg/PoseArray",
            s + late_ns,
            make(made, header=header(s + late_ns), poses=[p]),
        )
        for s, p in zip(stamps(COUNT), poses)
    ]
    bag = write(tmp_path / "bag", [*disc_messages(COUNT), *truth])
    options = ("--truth", "/truth", "--object", "/truth=1")
    assert run(bag, "--bundle", bundle, "--out", tmp_path / "out", *options) == 2
    assert "wanted poses at the images' stamps, found none, of 8 images" in capsys.readouterr().err


def test_images_without_truth_are_counted(bundle, tmp_path, capsys):
    poses = [ball_pose(*place, TURN) for place in path_of(COUNT)]
    truth = [tf_at(stamp, FRAME, "ball", pose) for stamp, pose in zip(stamps(COUNT), poses)][:-3]
    bag = write(tmp_path / "bag", [*disc_messages(COUNT), *truth])
    options = ("--truth", "tf:ball", "--object", "ball=1")
    assert run(bag, "--bundle", bundle, "--out", tmp_path / "out", *options) == 0
    assert "fault (3 x): no truth at an image's stamp: not judged" in capsys.readouterr().err
    figures = summary(tmp_path / "out")["figures"]
    assert (figures["images"], figures["judged_images"], figures["refused_images"]) == (8, 5, 0)


def test_images_without_stamps_are_no_success(bundle, tmp_path, capsys):
    messages = []
    for topic, kind, stamp, made in disc_messages(COUNT):
        made.header.stamp.sec = made.header.stamp.nanosec = 0
        messages.append((topic, kind, stamp, made))
    bag = write(tmp_path / "bag", messages)
    assert run(bag, "--bundle", bundle, "--out", tmp_path / "out") == 3
    assert summary(tmp_path / "out")["figures"]["refused_images"] == COUNT - 1
    said = capsys.readouterr()
    assert f"fault ({COUNT - 1} x): stamp not after" in said.err and "refused_images" in said.out


def test_one_alien_transform_does_not_spoil_the_truth(bundle, tmp_path, capsys):
    poses = [ball_pose(*place, TURN) for place in path_of(COUNT)]
    truth = [tf_at(stamp, FRAME, "ball", pose) for stamp, pose in zip(stamps(COUNT), poses)]
    alien = tf_at(stamps(COUNT)[2], "world", "alien", np.eye(4))
    alien[3].transforms[0].transform.rotation.w = 0.0
    bag = write(tmp_path / "bag", [*disc_messages(COUNT), *truth, alien])
    options = ("--truth", "tf:ball", "--object", "ball=1")
    assert run(bag, "--bundle", bundle, "--out", tmp_path / "out", *options) == 0
    assert "fault (1 x): /tf: 'alien' in 'world' is left out" in capsys.readouterr().err
    assert summary(tmp_path / "out")["figures"]["judged_images"] == COUNT


def test_a_fault_of_the_program_is_no_worse_figure(bundle, bag, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run_bag, "evaluate", lambda *_: 1 / 0)
    assert run(bag, "--bundle", bundle, "--out", tmp_path) == 4
    assert "ZeroDivisionError" in capsys.readouterr().err
