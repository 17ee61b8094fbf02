# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy")
from pose_kd_ros.core.object_model import ObjectModel, box_corners
from pose_kd_ros.nodes.encode_messages import FrameNames, to_object_table

MODEL = ObjectModel(3, "red ball", 0.1, np.zeros(3), np.full(3, 0.05), box_corners((0, 0, 0), (0.05,) * 3))


def track(number):
    return SimpleNamespace(id=number, object_id=3)


def test_the_class_table_names_the_frame_that_is_sent():
    spec = SimpleNamespace(id=3, origin="its centre")
    bundle = SimpleNamespace(manifest=SimpleNamespace(name="balls", objects=[spec]))
    table = json.loads(to_object_table(bundle, {3: MODEL}, "seen_").data)
    assert table["objects"][0]["frame"] == FrameNames().name(track(7), MODEL, "seen_") == "seen_red_ball"


def test_a_frame_s_number_stays_with_its_track_and_is_given_again_afterwards():
    names = FrameNames()
    assert [names.name(track(n), MODEL, "") for n in (1, 2, 3)] == ["red_ball", "red_ball_2", "red_ball_3"]
    names.keep([track(1), track(3)])
    assert names.name(track(3), MODEL, "") == "red_ball_3"
    assert names.name(track(9), MODEL, "") == "red_ball_2"


def test_no_frame_begins_with_a_slash():
    """tf2 refuses it."""
    assert FrameNames().name(track(1), MODEL, "/left/") == "left/red_ball"


@pytest.mark.parametrize("other", ["red ball 2", "red_ball"])
def test_two_objects_never_share_a_frame(other):
    names, model = FrameNames(), dataclasses.replace(MODEL, id=4, name=other)
    given = [names.name(track(n), MODEL, "seen_") for n in (1, 2)]
    given.append(names.name(SimpleNamespace(id=5, object_id=4), model, "seen_"))
    assert len(set(given)) == 3, given
    assert [names.name(track(n), MODEL, "") for n in (1, 2)] == ["red_ball", "red_ball_2"]
