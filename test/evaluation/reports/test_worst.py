# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import cv2
import numpy as np
import pytest

from pose_kd_ros.core.camera import Camera
from pose_kd_ros.core.object_model import ObjectModel, box_corners
from pose_kd_ros.evaluation.frame import Frame, PoseError
from pose_kd_ros.evaluation.outcome import read_frames
from pose_kd_ros.evaluation.reports import worst


def objects() -> dict[int, ObjectModel]:
    size = np.full(3, 0.1)
    corners = box_corners(np.zeros(3), size)
    return {i: ObjectModel(i, f"object_{i}", 0.17, np.zeros(3), size, corners) for i in (1, 5)}


def grey(frame: Frame):
    camera = Camera(frame.K, np.zeros(0), "plumb_bob", frame.width, frame.height)
    return np.full((frame.height, frame.width, 3), 90, np.uint8), camera


def changed(entries, place: int, **changes):
    """The entries, one of them changed."""
    return tuple(replace(one, **changes) if i == place else one for i, one in enumerate(entries))


@pytest.fixture
def frames(write_outcome, tmp_path):
    return read_frames(write_outcome(tmp_path) / "frames.jsonl")


def test_wrong_missed_and_false_take_turns(frames):
    chosen = worst.choose(frames, 6)
    words = ("off by", "missed", "where none is")
    assert all(word in w.why for word, w in zip(words * 2, chosen)) and len(chosen) == 6
    largest = max(e.mssd_d for f in frames for e in f.errors if e.mssd_d is not None)
    assert any(e.mssd_d == largest for e in frames[chosen[0].index].errors)
    assert chosen[1].frame % 11 == 0 and chosen[2].frame % 17 == 16


def test_instances_that_are_hardly_seen_are_not_missed(frames):
    hidden = [replace(frame, truth=changed(frame.truth, 1, visib_fract=0.05)) for frame in frames]
    assert not any("missed" in w.why for w in worst.choose(hidden))


def test_frames_of_unknown_truth_have_no_false_alarms(frames):
    unknown = [replace(frame, has_truth=False, truth=(), errors=()) for frame in frames[1:]]
    assert not any("none is" in w.why for w in worst.choose([frames[0], *unknown]))


def test_without_truth_lost_tracks_come_first_then_low_scores(write_outcome, tmp_path):
    frames = list(read_frames(write_outcome(tmp_path, truth=False) / "frames.jsonl"))
    for place, changes in ((30, {"state": "lost"}), (45, {"score": 0.01})):
        frames[place] = replace(frames[place], estimates=changed(frames[place].estimates, 0, **changes))
    predicted = tuple(replace(one, state="predicted") for one in frames[50].estimates)
    frames[50] = replace(frames[50], estimates=predicted)
    chosen = worst.choose(frames, 3)
    assert [(w.frame, w.why.split(", ")[0]) for w in chosen] == [
        (30, "cube lost"), (45, "cube"), (50, "nothing found")
    ]  # fmt: skip


def test_neighbours_show_the_same_fault_once(frames):
    many = [replace(frame, number=n) for n, frame in enumerate(f for f in frames for _ in range(20))]
    numbers = sorted(w.index for w in worst.choose(many, 6))
    assert min(np.diff(numbers)) >= len(many) // 48 > 1


def test_a_short_recording_in_which_nothing_is_found_is_shown_from_end_to_end(frames):
    """All are missed alike: not the first six, and by the object's name."""
    missed = tuple(PoseError(one.object_id, one.truth, None) for one in frames[0].errors)
    short = [replace(frame, estimates=(), errors=missed) for frame in frames[:47]]
    chosen = worst.choose(short, names={1: "cube", 5: "dragon"})
    assert [w.index for w in chosen] == [0, 32, 16, 8, 40, 24]
    assert all(w.why.split(",")[0] in ("cube missed", "dragon missed") for w in chosen)


def test_overlays_show_truth_and_estimate_where_they_are(frames, tmp_path):
    paths = worst.write_overlays(tmp_path, frames, objects(), grey, 2)
    assert sorted(p.name for p in paths) == sorted(p.name for p in (tmp_path / "overlays").iterdir())
    chosen = worst.choose(frames, 2)
    assert [p.stem for p in paths] == [f"{w.frame:06d}" for w in chosen]
    missed = frames[chosen[1].index]
    picture = cv2.imread(str(paths[1]))
    green = (picture[..., 1] > 150) & (picture[..., 2] < 140)
    x, y, z = missed.truth[1].T_camera_object[:3, 3]
    u, v = 319.5 + 500 * x / z, 239.5 + 500 * y / z
    assert green[int(v) - 45 : int(v) + 45, int(u) - 45 : int(u) + 45].sum() > 100


def test_overlays_of_large_images_are_small_enough_to_embed():
    assert worst.shrunk(np.zeros((1080, 1920, 3), np.uint8)).shape == (450, 800, 3)


def test_a_pose_that_was_only_expected_is_labelled_so(frames):
    estimate = frames[0].estimates[0]
    assert worst.label(estimate) == f"cube {estimate.score:.2f}"
    assert worst.label(replace(estimate, state="predicted")) == "cube predicted"
