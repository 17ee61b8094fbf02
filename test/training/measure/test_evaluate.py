# SPDX-License-Identifier: Apache-2.0
"""The score's weights, and the measurement on either layout and on damaged data."""

import json
import shutil
import zlib

import numpy as np
import pytest

pytest.importorskip("torch")

from pose_kd_ros.datasets.faults import DatasetError
from pose_kd_ros.evaluation.matching import ObjectMatches, cut
from pose_kd_ros.evaluation.metrics import figures
from pose_kd_ros.pipeline.score import score_of
from pose_kd_ros.pipeline.solve import Estimates, ObjectPose
from training.data.objects import load_objects
from training.measure.calibrate import (
    LOWEST_SCORE,
    alarm_threshold,
    fit_confidence,
    vote_scales,
)
from training.measure.evaluate import measure


def test_fitted_scores_are_frequencies():
    """Of the poses scored about 0.7, about 70 % are right, on poses the fit has not seen."""
    random = np.random.RandomState(0)
    terms = np.c_[np.ones(8000), random.normal(0, 1, (8000, 4))]
    right = random.uniform(size=8000) < 1 / (1 + np.exp(-terms @ [0.3, 1.0, -0.5, 0.0, 2.0]))
    weights = fit_confidence(terms[:4000], right[:4000])
    scores = np.array([score_of(t, weights) for t in terms[4000:]])
    for low in (0.1, 0.4, 0.7):
        inside = (scores >= low) & (scores < low + 0.1)
        assert right[4000:][inside].mean() == pytest.approx(low + 0.05, abs=0.07)


@pytest.mark.parametrize("kind", ["exponential", "normal"])
def test_the_threshold_leaves_as_many_false_alarms_as_allowed(kind):
    """On alarms of other images than those it was fitted on, and more evenly than the sixth worst would."""
    random = np.random.RandomState(0)
    alarms = 1 / (1 + np.exp(2 - getattr(random, kind)(size=(40, 300))))  # 300 in 100 images, forty times
    fitted = [alarm_threshold(one, 100, 0.05) for one in alarms]
    left, by_rank = (
        [(alarms > threshold).sum() / 40 / 100 for threshold in thresholds]
        for thresholds in (fitted, np.sort(alarms)[:, -6])
    )
    assert np.mean(left) == pytest.approx(0.05, rel=0.25)
    assert np.std(left) < 0.9 * np.std(by_rank)


def test_without_false_alarms_the_threshold_is_the_lowest():
    assert alarm_threshold(np.zeros(0), 100) == alarm_threshold(np.array([0.9]), 100) == LOWEST_SCORE


def test_no_right_pose_still_gives_finite_weights():
    assert np.isfinite(fit_confidence(np.ones((5, 5)), np.zeros(5, bool))).all()


class FromPixels:
    """In the estimator's place: poses that depend on every pixel and on the camera, and on nothing else."""

    def __init__(self, models):
        self.objects = {model.id: model for model in models}

    def estimate(self, pixels, camera, regions=(), search=True):
        random = np.random.RandomState(zlib.crc32(pixels.tobytes() + camera.K.tobytes()))
        poses = []
        for object_id in self.objects:
            pose = np.eye(4)
            pose[:3, 3] = random.uniform(-0.1, 0.1, 3) + [0, 0, 0.9]
            poses.append(ObjectPose(object_id, pose, np.eye(6), random.uniform(), np.zeros(4), 9, 1.0, 1.0))
        return Estimates(poses)


@pytest.fixture
def occluded_linemod(shared_data, tmp_path, to_shards):
    """Six images of it, in folders and in shards."""
    for name in ("folders", "shards"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "models_eval").symlink_to(shared_data / "lmo/models_eval")
    to_shards(shared_data / "lmo/test", tmp_path / "shards/test", limit=6, per_shard=4)
    scene = tmp_path / "folders/test/000002"
    shutil.copytree(shared_data / "lmo/test/000002", scene, ignore=shutil.ignore_patterns("rgb"))
    shown = list(json.loads((scene / "scene_gt.json").read_text()))[:6]
    (scene / "rgb").mkdir()
    for path in (shared_data / "lmo/test/000002/rgb").iterdir():
        if path.stem in [f"{int(key):06d}" for key in shown]:
            shutil.copy(path, scene / "rgb")
    for name in ("camera", "gt", "gt_info"):
        path = scene / f"scene_{name}.json"
        content = json.loads(path.read_text())
        path.write_text(json.dumps({key: content[key] for key in shown}))
    models = load_objects(shared_data / "lmo")
    return tmp_path / "folders/test", tmp_path / "shards/test", FromPixels(models)


def test_occluded_linemod_measures_the_same_in_shards(occluded_linemod):
    folders, shards, estimator = occluded_linemod
    ours, theirs = (measure(estimator, split) for split in (folders, shards))
    assert ours[1] == theirs[1] == 6
    assert len(ours[0]) == len(theirs[0]) == 48
    for a, b in zip(ours[0], theirs[0]):
        for name in ("mssd", "mspd", "add", "shift", "turn", "scores", "is_target"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert figures(*ours[:2], [])["instances"] == figures(*theirs[:2], [])["instances"] > 30


def test_a_damaged_picture_is_refused_or_left_out_of_the_figures(occluded_linemod, capsys):
    split, _, estimator = occluded_linemod
    bad = sorted((split / "000002/rgb").iterdir())[3]
    bad.write_bytes(bad.read_bytes()[:2000])
    with pytest.raises(DatasetError, match=rf"{bad.name}: cannot be decoded"):
        measure(estimator, split)
    _, images, seconds = measure(estimator, split, on_fault="skip")
    assert images == len(seconds) == 5
    assert f"{split}: skipped 1 of 6 images: 1 picture" in capsys.readouterr().out


def test_the_votes_scale_is_the_true_depth_over_the_estimated_of_what_is_near():
    def group(object_id, ratio, mssd=0.1):
        one = np.ones((1, 1))
        return ObjectMatches(
            object_id, one * mssd, one, one, one, one, one, np.zeros((1, 1, 6)), np.eye(6)[None],
            np.eye(4)[None], np.ones(1), np.ones((1, 5)), np.ones(1, bool), np.ones(1, bool), None,
            one * ratio,
        )  # fmt: skip

    ratios = 0.94 + np.random.RandomState(0).normal(0, 0.02, 201)
    groups = [group(5, ratio) for ratio in ratios] + [group(5, 0.5, mssd=2.1) for _ in range(300)]
    groups += [group(6, 0.8) for _ in range(19)] + [cut(groups[0], 2.0)]
    assert vote_scales(groups) == {"5": pytest.approx(np.median(ratios), rel=1e-3)}
