# SPDX-License-Identifier: Apache-2.0
"""The weights of distillation follow from how hard it pulls, not from its units."""

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from stopping import stopped_after  # noqa: E402
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: E402

from training.fit import checkpoint  # noqa: E402
from training.fit.balance import MEASURED, Balance, gradient_ratio, watched_features  # noqa: E402
from training.fit.train import train  # noqa: E402
from training.losses.distill import DistillConfig  # noqa: E402
from training.losses.online import OnlineConfig  # noqa: E402

from .test_distill import teacher  # noqa: E402, F401
from .test_train import settings, weights  # noqa: E402


class Toy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = torch.nn.Linear(3, 4)

    def forward(self, x):
        return self.backbone(x)


def test_the_ratio_is_that_of_the_gradients_at_the_encoders_features():
    network = Toy()
    with watched_features(network) as features:
        out = network(torch.ones(2, 3))
    terms = {"vote": 2 * out.sum(), "score": out.sum(), "kd_vote": 6 * out.sum(), "online": 0.0 * out.sum()}
    assert gradient_ratio(terms, features).item() == pytest.approx(2.0)
    assert not network.backbone._forward_hooks
    with pytest.raises(ValueError, match=r"distill.ratio, online.ratio: wanted an encoder that learns"):
        gradient_ratio(terms, [])


def test_the_factor_makes_the_wanted_ratio_of_the_measured_one():
    balance = Balance(0.5, steps=100)
    assert not balance.teaches(9) and balance.measures(10)
    for ratio in [5.0, 20.0] * (MEASURED // 2):
        balance.add(10, ratio)
    assert not balance.measures(30) and balance.factor == pytest.approx(0.05)
    balance.add(20, 0.0)  # nothing was taught
    assert len(balance.ratios) == MEASURED
    assert Balance(None, 100).factor == 1.0 and Balance(None, 100).teaches(0)


@pytest.mark.parametrize("method", ["naive", "adlp", "fkd"])
def test_every_method_pulls_as_hard_as_it_is_told_to(method, teacher, tiny_data, tmp_path):  # noqa: F811
    distill = DistillConfig(method, teacher=teacher, teacher_score=0.0, ratio=0.5)
    config = settings(tiny_data, tmp_path, distill=distill, steps=24, log_every=1, val_every=100)
    train(config)
    events = EventAccumulator(str(config.folder)).Reload()
    found = {event.step: event.value for event in events.Scalars("train/kd_ratio")}
    first = min(found)
    assert first >= 3 and len(found) >= 15
    later = [value for step, value in found.items() if step >= first + MEASURED]
    assert 0.1 < np.median(later) < 2.5  # of a network that learns: measured before, obeyed after


def test_a_teacher_that_says_nothing_is_noticed():
    silent = Balance(0.5, steps=100)
    silent.add(50, 0.0)
    with pytest.raises(
        ValueError, match="wanted a teacher that teaches, found no gradient of it in 100 steps"
    ):
        silent.add(111, 0.0)


def test_a_run_goes_on_with_the_factor_that_it_measured(teacher, tiny_data, tmp_path):  # noqa: F811
    distill = DistillConfig("adlp", teacher=teacher, teacher_score=0.0, ratio=0.5)
    whole = settings(tiny_data, tmp_path / "whole", distill=distill, steps=16, val_every=100)
    half = settings(tiny_data, tmp_path / "half", distill=distill, steps=16, val_every=100)
    end = weights(train(whole))
    with stopped_after(14):
        train(half)
    assert len(checkpoint.load(half.folder / "last.ckpt")["ratios"]) == MEASURED
    again = weights(train(half))
    assert all(torch.equal(value, again[name]) for name, value in end.items())


@pytest.mark.parametrize("kind", [DistillConfig, OnlineConfig])
def test_a_ratio_is_above_zero(kind):
    with pytest.raises(ValueError, match="ratio: wanted > 0, found 0"):
        dataclasses.replace(kind(), ratio=0.0)
