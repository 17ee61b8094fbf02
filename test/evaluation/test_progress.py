# SPDX-License-Identifier: Apache-2.0
"""A run's folder while it is filled: what a kill leaves, and what an end leaves."""

import json

import numpy as np
import pytest

from pose_kd_ros.evaluation import progress
from pose_kd_ros.evaluation.frame import Frame
from pose_kd_ros.evaluation.outcome import FRAMES
from pose_kd_ros.evaluation.progress import STATE, Progress

IDENTITY = {"bundle": "b"}


def add(to, *numbers):
    for number in numbers:
        to.add(Frame(number, 0, "", 4, 3, np.eye(3), 1.0, {}, (), False, ()), {"after": number})


def numbers(folder):
    return [json.loads(line)["frame"] for line in (folder / FRAMES).read_text().splitlines()]


def test_what_was_added_is_there_after_the_end_and_after_an_exception(tmp_path):
    with Progress(tmp_path, IDENTITY) as first:
        add(first, 0, 1)
    with pytest.raises(KeyboardInterrupt), Progress(tmp_path, IDENTITY) as second:
        assert (second.last, second.follower) == (1, {"after": 1})
        add(second, 2)
        raise KeyboardInterrupt
    third = Progress(tmp_path, IDENTITY)
    assert (third.last, third.follower) == (2, {"after": 2}) and numbers(tmp_path) == [0, 1, 2]


def test_a_kill_loses_what_came_after_the_last_saved_state_and_no_line_stands_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "SAVE_S", 0.0)
    killed = Progress(tmp_path, IDENTITY)
    add(killed, 0, 1)  # each is saved at once
    monkeypatch.setattr(progress, "SAVE_S", 1000.0)
    add(killed, 2, 3)  # nobody closes it
    assert json.loads((tmp_path / STATE).read_text())["last"] == 1 and numbers(tmp_path) == [0, 1, 2, 3]
    with Progress(tmp_path, IDENTITY) as again:
        assert (again.last, again.follower) == (1, {"after": 1})
        add(again, 2, 3)
    assert numbers(tmp_path) == [0, 1, 2, 3]
