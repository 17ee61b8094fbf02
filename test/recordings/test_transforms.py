# SPDX-License-Identifier: Apache-2.0
from types import SimpleNamespace

import numpy as np
import pytest

from pose_kd_ros.core.pose import from_rotation_vector, make_pose, rotation_angle
from pose_kd_ros.recordings.transforms import MOST_FRAMES, PoseSeries, Transforms

S = 1_000_000_000


def shifted(x, turn=0.0):
    return make_pose(from_rotation_vector([0, 0, turn]), [x, 0, 0])


def message(parent, child, x=0.0, stamp=0.0, w=1.0):
    place, turn = SimpleNamespace(x=x, y=0.0, z=0.0), SimpleNamespace(x=0.0, y=0.0, z=0.0, w=w)
    at = SimpleNamespace(sec=int(stamp), nanosec=round(stamp % 1 * S))
    header = SimpleNamespace(frame_id=parent, stamp=at)
    transform = SimpleNamespace(translation=place, rotation=turn)
    return SimpleNamespace(header=header, child_frame_id=child, transform=transform)


def test_between_two_poses_and_never_beyond_them():
    series = PoseSeries.of({0: shifted(0.0), S // 10: shifted(1.0, np.pi / 2), 2 * S: shifted(2.0)})
    middle = series.at(S // 20)
    assert middle[0, 3] == pytest.approx(0.5) and rotation_angle(middle[:3, :3]) == pytest.approx(np.pi / 4)
    assert series.at(S // 10)[0, 3] == 1.0 and series.at(-1) is None and series.at(2 * S + 1) is None
    assert series.at(S) is None and series.in_words(S) == "none for 0.5 s about it"


def test_old_poses_are_forgotten_and_time_that_goes_back_begins_again():
    series = PoseSeries()
    for k in range(100):
        series.add(k * S, shifted(k), keep_ns=10 * S)
    assert series.in_words(0) == "stamps from 89.000 to 99.000 s"
    series.add(50 * S, shifted(0.0), keep_ns=10 * S)
    assert series.in_words(0) == "stamps from 50.000 to 50.000 s"


def test_late_and_repeated_poses_find_their_place():
    series = PoseSeries()
    for stamp, x in ((0, 0.0), (S // 5, 2.0), (S // 10, 7.0), (S // 10, 1.0)):
        series.add(stamp, shifted(x))
    assert series.at(S // 20)[0, 3] == pytest.approx(0.5)


def test_chains_of_static_and_moving_frames():
    frames = Transforms(keep_ns=10 * S)
    frames.add(message("/world", "base", 1.0), static=True)
    frames.add(message("base", "camera", 0.0, 5.0), static=False)
    frames.add(message("base", "camera", 1.0, 5.1), static=False)
    assert frames.lookup("world", "camera", int(5.05 * S))[0, 3] == pytest.approx(1.5)
    assert frames.lookup("camera", "world", int(5.05 * S))[0, 3] == pytest.approx(-1.5)
    assert frames.why_not("world", "camera", 6 * S) == "'camera' in 'base': stamps from 5.000 to 5.100 s"
    frames.forget_moving()
    assert frames.lookup("world", "camera", 5 * S) is None and frames.lookup("world", "base", 0) is not None


def test_a_loop_of_frames_ends():
    frames = Transforms()
    frames.add(message("a", "b"), static=True)
    frames.add(message("b", "a"), static=True)
    assert frames.lookup("a", "b", 0) is not None and frames.lookup("c", "b", 0) is None


def test_a_live_system_cannot_fill_the_memory():
    frames = Transforms(keep_ns=S)
    for k in range(MOST_FRAMES):
        frames.add(message("world", f"frame_{k}"), static=True)
    with pytest.raises(ValueError, match="wanted at most 1000 frames, found more"):
        frames.add(message("world", "one more"), static=False)
    frames.add(message("world", "frame_0", 2.0), static=True)
    with pytest.raises(ValueError, match="'b' in 'a' is left out: quaternion: wanted"):
        frames.add(message("a", "b", w=0.0), static=False)
