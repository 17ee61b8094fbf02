# SPDX-License-Identifier: Apache-2.0
"""A recording over real DDS into a real node in a process of its own."""

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("rosbags")

from disc_bundle import write_disc_bundle

from pose_kd_ros.nodes.evaluate_live import Received, percentiles
from standalone.bag_writer import Pinhole, write_bag
from standalone.domains import reserve_domain

CAMERA = Pinhole(320, 240, 300.0, 300.0, 160.0, 120.0)
COUNT = 20


@pytest.fixture
def recording(tmp_path):
    def frames():
        for index in range(COUNT):
            picture = np.full((240, 320, 3), 25, np.uint8)
            cv2.circle(picture, (120 + 4 * index, 120), 24, (0, 0, 255), -1)  # red, in BGR
            yield picture

    write_bag(tmp_path / "bag", frames(), CAMERA, rate=10)
    return tmp_path / "bag"


def run(*arguments, domain=None):
    """On a domain of this call alone."""
    domain = domain or str(reserve_domain())
    return subprocess.run(
        [sys.executable, "-m", "pose_kd_ros.nodes.evaluate_live", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=180,
        env={**os.environ, "ROS_DOMAIN_ID": domain},
    )


def test_what_arrives_is_counted_and_aged(recording, tmp_path):
    bundle, out = write_disc_bundle(tmp_path / "disc"), tmp_path / "live.json"
    done = run(recording, "--bundle", bundle, "--out", out, "-p", "threads:=1")
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(out.read_text())["figures"]
    assert figures["images"] == COUNT
    assert 0 < figures["processed"] <= 1.0 and figures["found_rate"] > 0
    assert 0 < figures["node_p50_ms"] and 0 < figures["age_p50_ms"] < 60_000
    assert "age_p95_ms" in done.stdout


def test_a_node_that_does_not_start_and_a_bag_that_is_none_are_named(recording, tmp_path):
    done = run(recording, "--bundle", tmp_path / "nothing")
    assert done.returncode == 2 and "did not become active: cannot configure" in done.stderr
    assert "nothing" in done.stderr.splitlines()[-1]
    done = run(tmp_path / "nowhere", "--bundle", "cube")
    assert done.returncode == 2 and "nowhere" in done.stderr


def test_figures_by_hand():
    heard = Received([{"stages_ms": {"total": t}, "dropped": 3} for t in (1.0, 2.0, 3.0)], [5.0, 7.0, 9.0], 2)
    found = heard.figures(6, 0.5)
    assert found["processed"] == 0.5 and found["found_rate"] == pytest.approx(2 / 3, abs=1e-5)
    assert (found["node_p50_ms"], found["age_p50_ms"], found["dropped"]) == (2.0, 7.0, 3.0)
    assert percentiles("age", []) == {} and Received().figures(4, 0.0)["processed"] == 0.0
