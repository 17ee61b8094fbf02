# SPDX-License-Identifier: Apache-2.0
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("rich")
from pose_kd_ros.core.camera import Camera
from pose_kd_ros.pipeline.draw import AXES_RGB
from standalone.bag_writer import START, Pinhole, write_bag
from standalone.demo import pictures
from standalone.demo.records import Found, Records, percentiles, summarise
from standalone.demo.table import to_line, to_table
from standalone.domains import reserve_domain
from standalone.synthetic import draw_frames

CAMERA = Pinhole(160, 120, 136.0, 136.0, 79.5, 59.5)
COUNT = 12
LENS = Camera(CAMERA.matrix, (), "plumb_bob", CAMERA.width, CAMERA.height)
STAND_IN = Path(__file__).with_name("stand_in_pose_node.py")


def found(depth=0.5):
    pose = np.eye(4)
    pose[2, 3] = depth
    return Found("cube", "1", 0.9, pose, pose, np.full(3, 0.084))


def status(state, latency=5.0):
    track = {"id": 1, "class": "cube", "state": state, "score": 0.9}
    return {"latency_ms": latency, "stages_ms": {"network": 2.0}, "dropped": 1, "tracks": [track]}


def records(states=("new", "tracked", "predicted", "lost")):
    stamps = [START + i for i in range(len(states))]
    made = Records([7 + i for i in range(len(states) + 1)], stamps, transforms=2)  # the first was missed
    made.statuses = [status(state) for state in states]
    made.found = {START + i: [found()] for i in range(len(states))}
    made.latency = {START + i: 0.004 + i / 1000 for i in range(len(states))}
    return made


def test_only_measured_poses_count():
    summary = summarise(records(), "cube", "made up")
    assert (summary["frames"], summary["frames_with_pose"], summary["dropped"]) == (5, 2, 1)
    assert summary["latency_ms"] == {"p50": 5.5, "p95": 6.85}
    assert summary["network_ms"] == {"p50": 2.0, "p95": 2.0}
    assert (summary["bundle"], summary["recording"]) == ("cube", "made up")


def test_a_run_without_frames_has_a_summary_too():
    assert summarise(Records([1, 2, 3]), "cube", "r")["latency_ms"] == {"p50": None, "p95": None}
    assert percentiles([1.0, 2.0, 3.0])["p50"] == 2.0


def test_frames_are_counted_from_the_end_when_the_first_was_missed():
    """Of the camera's first message that never came, a detection may have come all the same."""
    made = records()
    assert [made.frame_index(START + step) for step in (-1, 0, 3)] == [0, 1, 4]


def test_table_and_line_name_object_score_and_counts():
    assert to_table(records()).row_count == 1
    text = to_line(records())
    assert "cube at 0.000, 0.000, 0.500 m, score 0.90" in text
    assert "frame 4/5" in text and "with pose 2/4" in text and "dropped 1" in text
    assert "no object" in to_line(Records([1]))


def test_the_box_is_drawn_where_the_camera_sees_it():
    image = pictures.draw(np.zeros((120, 160, 3), np.uint8), LENS, [found()])
    near = 136 * 0.042 / (0.5 - 0.042)  # half the near face's side, in pixels
    assert tuple(image[60, 90]) == AXES_RGB[0] and tuple(image[70, 80]) == AXES_RGB[1]
    assert image[60, round(79.5 + near)].any() and not image[60, round(79.5 + near) + 20].any()


def test_what_lies_behind_the_camera_is_not_drawn():
    image = pictures.draw(np.zeros((120, 160, 3), np.uint8), LENS, [found(depth=-0.5)])
    assert not image[40:].any()


def run_demo(tmp_path, node_source, *extra):
    """Runs the demo with another executable in pose_node's place."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "pose_node").write_text(f"#!{sys.executable}\n{node_source}")
    (programs / "pose_node").chmod(0o755)
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "manifest.json").write_text("{}")
    images = (frame.image for frame in draw_frames(CAMERA, COUNT))
    write_bag(tmp_path / "bag", images, CAMERA, rate=20)
    command = [
        sys.executable,
        "-m",
        "standalone.demo",
        "--bundle",
        tmp_path / "bundle",
        "--out",
        tmp_path / "out",
    ]
    return subprocess.run(
        [*map(str, command), "--recording", str(tmp_path / "bag"), *extra],
        # A domain of its own: nodes that other tests leave in this process may be called pose_node, too.
        env={
            **os.environ,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "ROS_DOMAIN_ID": str(reserve_domain()),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_the_whole_demo_with_a_stand_in_node(tmp_path):
    done = run_demo(tmp_path, STAND_IN.read_text())
    assert done.returncode == 0, done.stdout + done.stderr
    out = tmp_path / "out"
    summary = json.loads((out / "summary.json").read_text())
    assert summary["frames"] == COUNT and summary["recording"] == "bag" and summary["bundle"] == "bundle"
    assert 0 < summary["frames_processed"] <= COUNT
    assert 0 < summary["frames_with_pose"] < summary["frames_processed"] or summary["frames_processed"] < 4
    assert len(list((out / "overlay").glob("*.png"))) == COUNT
    video = cv2.VideoCapture(str(out / "video.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == COUNT


def test_a_node_that_dies_is_reported_with_its_last_words(tmp_path):
    done = run_demo(tmp_path, "raise SystemExit('no such thing as a cube')")
    assert done.returncode == 1
    assert "did not become active" in done.stderr and "no such thing as a cube" in done.stderr


def test_a_missing_bundle_is_named(tmp_path):
    command = [sys.executable, "-m", "standalone.demo", "--bundle", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and f"No bundle at {tmp_path}" in done.stderr


def test_a_recording_that_is_not_there_is_named(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    options = {"--bundle": tmp_path, "--out": tmp_path / "out", "--recording": tmp_path / "none"}
    command = [sys.executable, "-m", "standalone.demo", *(str(v) for pair in options.items() for v in pair)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr.strip() == f"No recording at {tmp_path / 'none'}"


def test_the_recording_s_pictures_come_back_as_they_were_written(tmp_path):
    written = [frame.image for frame in draw_frames(CAMERA, 2)]
    write_bag(tmp_path / "bag", written, CAMERA)
    for read, image in zip(pictures.read_images(tmp_path / "bag"), written):
        np.testing.assert_array_equal(read, image[..., ::-1])
