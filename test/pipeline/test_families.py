# SPDX-License-Identifier: Apache-2.0
"""The one door from a bundle on disk to an estimator, with one network and with two."""

import numpy as np
import pytest

pytest.importorskip("onnx")

from pose_kd_ros.bundle.manifest import BundleError
from pose_kd_ros.bundle.store import open_bundle, write_bundle
from pose_kd_ros.pipeline.families import open_estimator
from pose_kd_ros.pipeline.keypoint import KeypointEstimator
from pose_kd_ros.pipeline.regional import RegionalEstimator
from test.nodes.disc_bundle import write_disc_bundle


@pytest.fixture
def keypoint(tmp_path):
    return write_disc_bundle(tmp_path / "keypoint")


def test_threads_and_options_reach_the_networks_that_they_are_for(keypoint, tmp_path):
    both = open_bundle(write_disc_bundle(tmp_path / "both", "heatmap", keypoint))
    estimator = open_estimator(both, threads=3, pose_score=0.9)
    assert isinstance(estimator, RegionalEstimator) and type(estimator.locator) is KeypointEstimator
    sessions = [one.network._session for one in (estimator, estimator.locator)]
    assert [s.get_session_options().intra_op_num_threads for s in sessions] == [3, 3]
    assert (estimator.pose_score, estimator.locator.pose_score) == (0.9, 0.3)


def test_a_bundle_without_a_locator_has_none(keypoint, tmp_path):
    assert open_estimator(open_bundle(write_disc_bundle(tmp_path / "dense", "dense")), 1).locator is None
    assert type(open_estimator(open_bundle(keypoint), 1)) is KeypointEstimator


def test_the_golden_samples_of_both_are_replayed(keypoint, tmp_path):
    bundle, golden = open_bundle(keypoint), tmp_path / "golden.npz"
    np.savez(golden, **{name: values + 1 for name, values in bundle.golden()[1].items()})
    files = {name: bundle.folder / name for name in bundle.manifest.files} | {golden.name: golden}
    other = write_bundle(tmp_path / "other", bundle.manifest, files)
    both = open_bundle(write_disc_bundle(tmp_path / "both", "dense", other.folder))
    with pytest.raises(BundleError, match="both/locator: golden sample deviates by 1"):
        open_estimator(both, 1)


def test_a_provider_that_is_not_there_is_refused(keypoint):
    with pytest.raises(BundleError, match=r"has no provider \['Nowhere"):
        open_estimator(open_bundle(keypoint), 1, ("NowhereExecutionProvider",))
