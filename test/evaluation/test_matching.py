# SPDX-License-Identifier: Apache-2.0
"""Figures of a run, on poses whose figures are known beforehand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pose_kd_ros.core.object_model import ObjectModel, box_corners
from pose_kd_ros.core.pose import from_rotation_vector, make_pose
from pose_kd_ros.datasets.bop import BopImage, BopInstance
from pose_kd_ros.evaluation.matching import cut, match_image, rescored
from pose_kd_ros.evaluation.metrics import add_recalls, false_alarm_scores, figures
from pose_kd_ros.pipeline.score import evidence
from pose_kd_ros.pipeline.solve import ObjectPose

K = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
MODEL = ObjectModel(1, "box", 0.1, np.zeros(3), np.full(3, 0.0577), box_corners((0, 0, 0), (0.0577,) * 3))
TRUE = make_pose(from_rotation_vector((0.3, 0.2, 0.1)), (0.0, 0.0, 0.5))


def image(poses, visible=1.0):
    instances = tuple(BopInstance(1, p, None, None, visible, None) for p in poses)
    return BopImage(0, 0, Path("none"), K, None, 1.0, instances)


def found(pose, score=0.9):
    return ObjectPose(
        1,
        pose,
        np.eye(6),
        score,
        np.array([0, 0, 1, 1.0]),
        10,
        1.0,
        1.0,
        None,
        evidence(score, 1.0, 10, 0.01),
    )


def off_by(millimetres):
    moved = TRUE.copy()
    moved[0, 3] += millimetres / 1000
    return moved


def groups(true, estimates, visible=1.0):
    return match_image(image(true, visible), 640, estimates, {1: MODEL}, {1: MODEL.corners()})


def test_a_pose_off_by_12_mm_of_100_passes_eight_of_ten_thresholds():
    values = figures(groups([TRUE], [found(off_by(12))]), 1, [0.01])
    assert values["mssd"] == pytest.approx(0.8) and values["mssd_01d"] == 0 and values["found"] == 1
    assert values["median_translation_m"] == pytest.approx(0.012) and values[
        "median_rotation_rad"
    ] == pytest.approx(0, abs=1e-6)
    assert values["false_positives_per_image"] == 0 and values["ms_per_image"] == pytest.approx(10)


def test_a_far_pose_is_false_and_the_instance_missing():
    values = figures(groups([TRUE], [found(off_by(80))]), 1, [])
    assert values["found"] == 0 and values["false_positives_per_image"] == 1 and values["precision_05d"] == 0


def test_the_second_pose_of_one_instance_is_false():
    values = figures(groups([TRUE], [found(TRUE), found(off_by(5), 0.5)]), 1, [])
    assert values["mssd_01d"] == 1 and values["false_positives_per_image"] == 1


def test_add_s_judges_by_itself_not_by_the_farthest_point():
    """ADD-S of a symmetric object may be small where one corner is far off."""
    (group,) = groups([TRUE], [found(TRUE)])
    turned = replace(group, mssd=np.array([[0.9]]), add=np.array([[0.05]]))
    assert add_recalls([turned]) == {"add_s_01d": 1.0, "add_s_01d_1": 1.0}
    assert add_recalls([replace(turned, add=np.array([[0.1]]))])["add_s_01d"] == 0  # strictly below


def test_hidden_instances_are_not_asked_for_but_may_be_found():
    both = groups([TRUE], [found(TRUE)], visible=0.05)
    values = figures(both, 1, [])
    assert values["instances"] == 0 and values["false_positives_per_image"] == 0


def test_a_poor_pose_is_no_false_alarm():
    assert false_alarm_scores(groups([TRUE], [found(off_by(80)), found(off_by(300), 0.4)])).tolist() == [0.4]


def test_right_means_a_tenth_of_the_projected_diameter():
    # 100 mm seen by 500 px at 0.5 m are 100 px: 9 mm aside are about 9 px, 12 mm about 12
    both = groups([TRUE], [found(off_by(8.5)), found(off_by(12))])
    assert both[0].right.tolist() == [True, False]


def test_without_weights_the_score_is_class_score_times_support_and_with_them_a_probability():
    both = groups([TRUE], [found(TRUE, 0.7)])
    assert rescored(both[0], np.zeros(0)).scores == pytest.approx([0.7])
    assert rescored(both[0], np.zeros(5)).scores == pytest.approx([0.5])


def test_poses_in_an_image_without_objects_are_false_with_their_scores():
    both = groups([], [found(TRUE, 0.7)])
    assert false_alarm_scores(both).tolist() == [0.7]
    assert figures([cut(g, 0.8) for g in both], 1, [])["false_positives_per_image"] == 0


def test_an_empty_image_without_poses_makes_no_group():
    assert groups([], []) == []
