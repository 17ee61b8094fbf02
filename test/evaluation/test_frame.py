# SPDX-License-Identifier: Apache-2.0
"""The record of an image: what it writes it reads, and what it does not know it refuses."""

import json

import numpy as np
import pytest

from pose_kd_ros.evaluation.frame import Estimate, Frame, OutcomeError, PoseError, TrueInstance

POSE = np.arange(16.0).reshape(4, 4) / 7


def a_frame(**changes):
    known = Estimate(1, "cube", 3, "tracked", 0.1 + 0.2, POSE, np.eye(6), np.arange(4.0), 0.7, None)
    meshed = Estimate(2, "ball", None, "new", 0.5, POSE, np.eye(6), None, None, 1.5, None, 0.0)
    truth = (TrueInstance(1, POSE, 1.0), TrueInstance(2, POSE, 0.05))
    errors = (PoseError(1, 0, 0, *np.arange(6.0).tolist()), PoseError(2, 1, None))
    places = {"number": 7, "stamp_ns": 5, "camera": "c", "width": 640, "height": 480, "K": np.eye(3)}
    told = {"estimates": (known, meshed), "has_truth": True, "truth": truth, "errors": errors}
    return Frame(**{**places, "latency_ms": 1.25, "stages_ms": {"pnp": 1.0}, **told, **changes})


def test_a_line_read_and_written_again_is_the_same_to_the_byte():
    for frame in (a_frame(), a_frame(vsd={"1": [[[0.5]]]}), a_frame(depth_fault="none"), a_frame(errors=())):
        line = json.dumps(frame.to_json())
        assert json.dumps(Frame.from_json(json.loads(line), "line 1").to_json()) == line


def test_keys_of_what_was_not_asked_for_are_left_out():
    content = a_frame().to_json()
    assert not {"vsd", "depth_fault"} & content.keys()
    assert ["edge_px" in one for one in content["estimates"]] == [False, True]


@pytest.mark.parametrize(
    "change, said",
    [
        ({"frame": "7"}, "line 1: frame: wanted int, found '7'"),
        ({"judged": 1}, "line 1: judged: wanted bool, found 1"),
        ({"K": [1, 2]}, r"line 1: K: wanted 9 numbers, found \[1, 2\]"),
        ({"truth": [{}]}, r"line 1: truth\[0\]: T_camera_object: wanted a value, found none"),
        ({"more": 1}, "line 1: wanted frame, .*, found more, too"),
        ({"truth": []}, "errors: wanted a place among 0, found 0"),
    ],
)
def test_what_is_wrong_is_refused_by_its_field(change, said):
    with pytest.raises(OutcomeError, match=said):
        Frame.from_json(a_frame().to_json() | change, "line 1")


def test_a_matrix_of_another_shape_is_refused():
    with pytest.raises(OutcomeError, match=r"T_camera_object: wanted shape \(4, 4\), found \(3, 4\)"):
        TrueInstance(1, POSE[:3], 1.0)


def test_one_object_alone_keeps_its_errors_places():
    (error,) = a_frame().only(2).errors
    assert (error.truth, error.estimate) == (0, None)
    assert [one.object_id for one in a_frame().visible_errors] == [1]
