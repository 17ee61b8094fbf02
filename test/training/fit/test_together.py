# SPDX-License-Identifier: Apache-2.0
"""Runs side by side on the same batches: each ends as it would alone, and a teacher is asked once for all."""

import dataclasses
import json

import pytest

torch = pytest.importorskip("torch")

from training.config import LossWeights  # noqa: E402
from training.fit import checkpoint  # noqa: E402
from training.fit.learner import Learner, check_shareable  # noqa: E402
from training.fit.teacher import EVALUATION, Teacher  # noqa: E402
from training.fit.train import Stopped, train, train_together  # noqa: E402
from training.losses.distill import DistillConfig  # noqa: E402
from training.models.keypoint import NetworkConfig  # noqa: E402

from .test_train import SMALL, settings, weights  # noqa: E402

WIDE = NetworkConfig(width=32, depth=1, groups=4)


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.fixture(scope="module")
def teacher(tiny_data, tmp_path_factory):
    config = settings(
        tiny_data, tmp_path_factory.mktemp("teachers"), name="teacher", steps=2, network=WIDE, val_every=100
    )
    train(config)
    (config.folder / EVALUATION).write_text(json.dumps({"step": 2, "metrics": {"found": 0.9}}))
    return config.folder


@pytest.fixture
def students(teacher, tiny_data, tmp_path):
    """none, which takes one step longer, adlp and fkd."""

    def student(method, **changes):
        distill = DistillConfig(method, teacher=teacher, teacher_score=0.0) if method != "none" else None
        changes = {"steps": 4, "name": method, "distill": distill or DistillConfig()} | changes
        return settings(tiny_data, tmp_path / "together", **changes)

    return [student("none", steps=5), student("adlp"), student("fkd")]


def test_side_by_side_each_ends_as_it_does_alone(students, tmp_path, monkeypatch):
    calls, call = [], Teacher.__call__
    monkeypatch.setattr(Teacher, "__call__", lambda *a: calls.append(1) or call(*a))
    together = [weights(path) for path in train_together(students)]
    assert len(calls) == 4  # once a batch for both students; not for none, which goes on alone
    for config, ended in zip(students, together):
        assert same(ended, weights(train(dataclasses.replace(config, runs=tmp_path / "alone"))))


def test_a_group_that_was_killed_between_two_checkpoints_ends_alike(students, tmp_path, monkeypatch):
    whole = [dataclasses.replace(config, runs=tmp_path / "whole") for config in students]
    expected = [weights(path) for path in train_together(whole)]
    save, saved = Learner.save, []

    def killed(learner, step):
        if len(saved) == 2:
            raise KeyboardInterrupt
        saved.append(step)
        save(learner, step)

    monkeypatch.setattr(Learner, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        train_together(students)
    monkeypatch.undo()
    assert all(same(e, weights(path)) for e, path in zip(expected, train_together(students)))


def test_the_teachers_weight_follows_lead_and_ramp():
    distill = DistillConfig(lead=0.2, ramp=0.2)
    assert [distill.share(p) for p in (0.0, 0.19, 0.2, 0.3, 0.4, 1.0)] == pytest.approx([0, 0, 0, 0.5, 1, 1])
    assert [DistillConfig().share(p) for p in (0.0, 0.5)] == [1.0, 1.0]
    assert [DistillConfig(lead=0.5).share(p) for p in (0.4, 0.5)] == [0.0, 1.0]
    half = {name: 0.5 for name in ("kd_score", "kd_feature", "kd_code", "kd_mask", "kd_map")}
    assert LossWeights(kd_vote=50.0).scaled(0.5) == LossWeights(kd_vote=25.0, **half)
    assert LossWeights(online=2.0, online_vote=8.0).scaled(1.0, 0.25) == LossWeights(
        online=0.5, online_vote=2.0, online_score=0.25
    )
    with pytest.raises(ValueError, match=r"found 0\.8 and 0\.3"):
        DistillConfig(lead=0.8, ramp=0.3)


def test_a_group_of_unequal_lengths_goes_on_after_the_shorter_run_is_done(tiny_data, tmp_path, monkeypatch):
    def run(name, runs, steps):
        return settings(tiny_data, runs, name=name, steps=steps, val_every=5, checkpoint_every=2)

    alone = weights(train(run("long", tmp_path / "alone", 8)))
    both = [run("short", tmp_path / "two", 2), run("long", tmp_path / "two", 8)]
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr("training.fit.train.agreed", lambda *_: checkpoint_at(both[1]) == 2)
        train_together(both)
    assert checkpoint_at(both[0]) == 2 and checkpoint_at(both[1]) == 3
    assert same(weights(train_together(both)[1]), alone)


def checkpoint_at(config):
    last = config.folder / "last.ckpt"
    return checkpoint.load(last)["step"] if last.exists() else 0


def test_runs_that_cannot_share_their_batches_are_refused_by_field(tiny_data, tmp_path):
    one, other = (settings(tiny_data, tmp_path, name=name) for name in ("one", "other"))

    def refused(match, **changes):
        with pytest.raises(ValueError, match=match):
            check_shareable([one, dataclasses.replace(other, **changes)])

    refused("batch_size: 2 and 4", batch_size=4)
    refused("seed: 0 and 1", seed=1)
    refused(r"network\.strides: \(8, 16, 32, 64\) and", network=dataclasses.replace(SMALL, levels=5))
    refused("wanted different names", name="one")
    check_shareable([one, dataclasses.replace(other, steps=9, lr=1e-4)])


def test_gradients_that_are_not_finite_are_not_kept(tiny_data, tmp_path):
    config = settings(tiny_data, tmp_path, weights=LossWeights(vote=float("inf")), val_every=100)
    with pytest.raises(ValueError, match=r"run, step 2: wanted a finite gradient, found norm nan"):
        train(config)
    assert not (config.folder / "last.ckpt").exists()
