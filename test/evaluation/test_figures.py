# SPDX-License-Identifier: Apache-2.0
"""Figures of runs whose figures are known beforehand."""

from dataclasses import replace

import numpy as np
import pytest

from pose_kd_ros.core.object_model import ObjectModel, box_corners, expand_symmetries
from pose_kd_ros.core.pose import from_rotation_vector, make_pose
from pose_kd_ros.evaluation import figures
from pose_kd_ros.evaluation.frame import Estimate, Frame, TrueInstance
from pose_kd_ros.evaluation.frames import pose_errors

CORNERS = box_corners((0, 0, 0), (0.06, 0.06, 0.06))
HALF_TURN = make_pose(from_rotation_vector((0, 0, np.pi)), (0, 0, 0))
MODEL = ObjectModel(1, "box", 0.1, np.zeros(3), np.full(3, 0.06), CORNERS)
SYMMETRIC = ObjectModel(2, "bar", 0.1, np.zeros(3), np.full(3, 0.06), CORNERS, expand_symmetries([HALF_TURN]))
OBJECTS = {1: MODEL, 2: SYMMETRIC}
POINTS = dict.fromkeys(OBJECTS, CORNERS)
TRUE = make_pose(from_rotation_vector((0.2, 0.1, 0)), (0.0, 0.0, 0.5))
K = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])


def moved(x=0.0, turn=(0, 0, 0), pose=TRUE):
    """``pose`` x metres to the right and turned by ``turn`` about the camera's axes."""
    result = make_pose(from_rotation_vector(turn) @ pose[:3, :3], pose[:3, 3])
    result[0, 3] += x
    return result


def estimate(pose, track=1, object_id=1, state="tracked", sigma=1e-3, score=0.9):
    name, covariance = OBJECTS[object_id].name, np.eye(6) * sigma**2
    return Estimate(object_id, name, track, state, score, pose, covariance, None, None, None)


def frame(estimates=(), truth=(), number=0, has_truth=True, latency=10.0):
    """truth: (object id, pose)."""
    true = tuple(TrueInstance(i, p, 1.0) for i, p in truth)
    made = Frame(number, 0, "", 640, 480, K, latency, {}, tuple(estimates), has_truth, true)
    return replace(made, errors=pose_errors(made, OBJECTS, POINTS))


def of(frames):
    return figures.all_figures(frames, OBJECTS, POINTS)


def test_jitter_is_the_noise_and_even_motion_adds_none():
    still = [frame([estimate(moved(x))], has_truth=False) for x in (0, 0.003, 0)]
    assert of(still)["jitter_translation_m"] == pytest.approx(0.006 / 6**0.5)
    even = [frame([estimate(moved(0.01 * i, (0, 0.1 * i, 0)))], has_truth=False) for i in range(5)]
    assert of(even)["jitter_translation_m"] == pytest.approx(0, abs=1e-12)
    assert of(even)["jitter_rotation_rad"] == pytest.approx(0, abs=1e-9)
    random = np.random.default_rng(0)
    noisy = [frame([estimate(moved(0.002 * random.standard_normal()))], has_truth=False) for _ in range(1000)]
    assert of(noisy)["jitter_translation_m"] == pytest.approx(0.002, rel=0.1)


def test_jitter_against_truth_leaves_the_object_s_own_motion_out():
    places = [0, 0.02, 0.01, 0.05, 0.0]
    follows = [frame([estimate(moved(x))], [(1, moved(x))]) for x in places]
    assert of(follows)["jitter_translation_m"] == pytest.approx(0, abs=1e-12)
    blind = [frame([estimate(moved(x))], has_truth=False) for x in places]
    assert of(blind)["jitter_translation_m"] > 0.01


def test_turns_jitter_too_and_a_gap_ends_a_series():
    turned = [frame([estimate(moved(0, (0, 0, w)))], has_truth=False) for w in (0, 0.01, 0)]
    assert of(turned)["jitter_rotation_rad"] == pytest.approx(0.02 / 6**0.5, rel=1e-6)
    gap = [turned[0], turned[1], frame(has_truth=False), turned[2]]
    assert np.isnan(of(gap)["jitter_rotation_rad"])


def test_an_id_switch_is_an_instance_found_by_another_track():
    left, right = TRUE, moved(0.3)
    truth = [(1, left), (1, right)]
    frames = [
        frame([estimate(left, 1), estimate(right, 2)], truth),
        frame([estimate(left, 1)], truth),
        frame([estimate(left, 1), estimate(right, 3)], truth),
        frame([estimate(left, 3), estimate(right, 1)], truth),
    ]
    assert of(frames)["id_switches"] == 3 and of(frames)["tracks"] == 3
    assert of(frames[:2])["id_switches"] == 0


def test_coverage_counts_errors_inside_the_ellipsoid():
    # chi-squared of 6 degrees: 5.35 at 50 %, 10.64 at 90 %, 12.59 at 95 %
    distances = np.sqrt([5.0, 6.0, 11.0, 13.0])
    frames = [frame([estimate(moved(d * 1e-3))], [(1, TRUE)]) for d in distances]
    found = of(frames)
    assert [found[f"coverage_{p}"] for p in (50, 90, 95)] == [0.25, 0.5, 0.75]


def test_honest_covariances_cover_what_they_say():
    random = np.random.default_rng(1)
    noise = 1e-3 * random.standard_normal((400, 6))
    frames = []
    for shift in noise:
        pose = moved(0, shift[3:])
        pose[:3, 3] += shift[:3]
        frames.append(frame([estimate(pose)], [(1, TRUE)]))
    found = of(frames)
    assert all(found[f"coverage_{p}"] == pytest.approx(p / 100, abs=0.05) for p in (50, 90, 95))
    x, y = (np.array(figures.curves(frames, OBJECTS)["coverage"][axis]) for axis in "xy")
    assert np.abs(x - y).max() < 0.08


def test_a_symmetric_object_s_other_side_is_no_error():
    frames = [frame([estimate(TRUE @ HALF_TURN, object_id=2)], [(2, TRUE)])] * 3
    found = of(frames)
    assert found["coverage_50"] == 1 and found["within_2cm_2deg"] == 1 and found["mssd"] == 1
    assert found["jitter_rotation_rad"] == pytest.approx(0, abs=1e-9)


def test_found_missed_and_false_are_counted_over_the_instances_in_view():
    frames = [
        frame([estimate(moved(0.004))], [(1, TRUE)]),
        frame([], [(1, TRUE)]),
        frame([estimate(moved(0.3))], [(1, TRUE)]),
        frame([estimate(TRUE)], has_truth=False),
        frame([estimate(TRUE, state="predicted")], [(1, TRUE)]),
    ]
    found = of(frames)
    assert found["found"] == 0.25 and found["within_2cm_2deg"] == 0.25 and found["mssd_01d"] == 0.25
    assert found["precision_05d"] == 0.5 and found["instances"] == 4 and found["images"] == 5
    assert found["found_rate"] == 0.6 and found["auc_add"] == pytest.approx(0.25)
    assert found["false_positives_per_image"] == 0.25


def test_errors_name_the_estimate_and_the_truth_they_are_between():
    line = frame([estimate(TRUE, state="lost"), estimate(moved(0.005), 2)], [(2, TRUE), (1, TRUE)])
    missed, found = line.errors
    assert (missed.truth, missed.estimate, missed.mssd_d) == (0, None, None)
    assert (found.truth, found.estimate) == (1, 1)
    assert found.translation_m == pytest.approx(0.005) and found.mssd_d == pytest.approx(0.05)
    assert found.rotation_rad == pytest.approx(0, abs=1e-6) and found.add_d == pytest.approx(0.05)


def test_without_truth_only_what_needs_none_is_there():
    found = of([frame([estimate(TRUE)], has_truth=False, latency=ms) for ms in (10, 20, 30)])
    assert found["found_rate"] == 1 and found["latency_p50_ms"] == 20
    assert not {"mssd", "coverage_50", "id_switches", "auc_add"} & found.keys()
    assert figures.curves([frame(has_truth=False)], OBJECTS) == {}


def test_each_object_has_its_own_figures():
    frames = [frame([estimate(TRUE, 1), estimate(moved(0.3), 2, 2)], [(1, TRUE), (2, TRUE)])] * 3
    own = figures.object_figures(frames, OBJECTS, POINTS)
    assert own["1"]["class_name"] == "box" and own["1"]["found"] == 1 and own["2"]["found"] == 0
    assert own["1"]["instances"] == 3 and not [name for name in own["1"] if name.endswith("_ms")]
