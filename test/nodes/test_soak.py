# SPDX-License-Identifier: Apache-2.0
"""The soak test itself: a short run on a real node, and that it notices what it is there to notice."""

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("onnx")
import rclpy
from disc_bundle import write_disc_bundle

from bench.disturbances import DISTURBANCES, Driver
from bench.live import node_process, painted
from bench.soak import faults, soak

FINE = {
    "problems": [],
    "memory_slope_mb_h": 1.0,
    "memory_mb": [100.0, 101.0],
    "threads": [20, 20],
    "open_files": [26, 26],
    "frames_received_and_not_counted_most": 2,
    "frames_sent_and_not_counted_most": 3,
}


def test_a_node_is_at_work_again_after_a_disturbance(tmp_path):
    bundle = str(write_disc_bundle(tmp_path / "discs"))
    with node_process(bundle, "threads:=1", "use_sim_time:=true") as process:
        driver = Driver(painted(20, 160, 120), 30.0, [bundle], seed=1)
        try:
            found = soak(driver, process.pid, 0.05, False, lasting=(0.5, 1.0))
        finally:
            driver.destroy_node()
        assert rclpy.ok() and process.poll() is None
    assert faults(found, 0) == []
    assert sum(found["disturbances"].values()) >= 1 and found["frames_processed"] > 10
    assert set(found["disturbances"]) <= {one.__name__ for one in DISTURBANCES}


def test_a_fine_run_has_no_faults():
    assert faults(FINE, 0) == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"problems": ["lifecycle: not at work again within 15 s"]}, "lifecycle: not at work"),
        (
            {"memory_slope_mb_h": 60.0, "memory_mb": [100.0, 160.0]},
            "memory: wanted at most 20 MB/h",
        ),
        ({"threads": [20, 40]}, "threads: wanted at most 24, found 40"),
        ({"open_files": [26, 90]}, "open_files: wanted at most 36, found 90"),
        (
            {"frames_sent_and_not_counted_most": 30},
            "frames_sent_and_not_counted_most: wanted",
        ),
    ],
)
def test_what_is_wrong_is_said(change, text):
    assert [line.startswith(text) for line in faults({**FINE, **change}, 0)] == [True]


def test_an_exit_code_is_a_fault():
    assert faults(FINE, 134) == ["exit code after SIGINT: wanted 0, found 134"]
