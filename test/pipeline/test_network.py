# SPDX-License-Identifier: Apache-2.0
"""The golden sample proves an engine: a network that computes anything else is refused."""

from types import SimpleNamespace

import numpy as np
import pytest

from pose_kd_ros.bundle.manifest import BundleError
from pose_kd_ros.pipeline.network import check_golden
from test.bundle.test_bundle import manifest

SCORES, OFFSETS = np.full((1, 3, 1), 0.25, np.float32), np.zeros((1, 3, 1, 8, 2), np.float32)


def bundle(**stored):
    image = np.zeros((1, 3, 64, 64), np.float32)
    return SimpleNamespace(folder="b", manifest=manifest(), golden=lambda: (image, stored))


def network(scores=SCORES, offsets=OFFSETS):
    return lambda image: {"scores": scores, "offsets": offsets}


def test_the_largest_deviation_is_told():
    worst = check_golden(bundle(scores=SCORES, offsets=OFFSETS), network(SCORES + 0.005))
    assert worst == pytest.approx(0.005)


@pytest.mark.parametrize("wrong", [0.1, np.inf, np.nan])
@pytest.mark.parametrize("name", ["scores", "offsets"])
def test_another_network_is_refused_also_one_that_gives_no_numbers(name, wrong):
    values = {"scores": SCORES, "offsets": OFFSETS}
    with pytest.raises(BundleError, match="golden sample deviates by"):
        check_golden(bundle(**values), network(**{name: values[name] + np.float32(wrong)}))


def test_a_sample_that_lacks_an_output_proves_nothing():
    with pytest.raises(BundleError, match=r"golden sample: holds no values for \['offsets'\]"):
        check_golden(bundle(scores=SCORES), network())


def test_an_output_of_another_shape_is_named():
    with pytest.raises(BundleError, match=r"wanted shape \(1, 3, 1\), found \(1, 2, 1\)"):
        check_golden(bundle(scores=SCORES, offsets=OFFSETS), network(scores=SCORES[:, :2]))
