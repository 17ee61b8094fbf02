# SPDX-License-Identifier: Apache-2.0
import pytest

pytest.importorskip("rclpy")
from pose_kd_ros.nodes.health import Health


@pytest.mark.parametrize(
    ("frames", "lost"),
    [
        ([(1, 1), (2, 1), (5, 1)], 2),
        ([(500, 1), (1, 1), (3, 1)], 1),  # another publisher, or the same one restarted
        ([(1, 2), (500, 2), (2, 2), (501, 2)], 0),  # two that take turns
        ([(3, 1), (500, 2), (501, 1), (503, 1)], 1),  # one came, the other went
    ],
)
def test_lost_frames_are_gaps_of_one_publisher(frames, lost):
    health = Health()
    for sequence, publishers in frames:
        health.arrived(sequence, publishers)
    assert health.lost == lost
