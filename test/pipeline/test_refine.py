# SPDX-License-Identifier: Apache-2.0
"""Refinement in the pipeline: between the poses that are kept and whoever tracks them."""

import dataclasses

import cv2
import numpy as np
import pytest

from pose_kd_ros.bundle.manifest import BundleError, EdgeSpec
from pose_kd_ros.core.mesh import Mesh
from pose_kd_ros.core.uncertainty import ANY_TURN
from pose_kd_ros.pipeline.refine import DepthRefiner, EdgeRefiner, make_refiner
from pose_kd_ros.pipeline.score import AGREEMENT
from pose_kd_ros.pipeline.solve import ObjectPose
from test.bundle.test_bundle import bundle  # noqa: F401
from test.core.test_depth_fit import depth_image
from test.core.test_edges import CAMERA, POSE, UNSURE, draw, errors, start_of
from test.core.test_mesh import BOX, MODEL
from test.pipeline import test_keypoint

IMAGE = cv2.cvtColor(draw(BOX, POSE), cv2.COLOR_GRAY2RGB)


def found(pose, covariance=UNSURE):
    return ObjectPose(1, pose, covariance, 0.9, np.array([0.0, 0, 1, 1]), 30, 0.9, 1.0, track_id=7)


def test_a_refined_pose_keeps_its_score_and_track_and_has_another_box():
    refiner = EdgeRefiner({1: BOX}, {1: MODEL})
    (one,) = refiner(IMAGE, CAMERA, [found(start_of(0))])
    assert errors(one.pose)[0] < 0.001 and (one.score, one.track_id) == (0.9, 7)
    assert one.box[2] - one.box[0] > 100 and refiner.counts == {"refined": 1}


def test_a_covariance_that_is_far_too_sure_does_not_hinder():
    (one,) = EdgeRefiner({1: BOX}, {1: MODEL})(IMAGE, CAMERA, [found(start_of(0), UNSURE / 100)])
    assert errors(one.pose)[0] < 0.001


def test_a_turn_about_an_axis_of_symmetry_stays_as_unknown_as_it_was():
    """Its variance is in the pose's covariance already, and is not added a second time."""
    round_box = dataclasses.replace(MODEL, symmetry_axes=[[[0, 0, 1], [0, 0, 0]]])
    axis = POSE[:3, 2]
    unknown = UNSURE.copy()
    unknown[3:, 3:] += ANY_TURN * np.outer(axis, axis)
    given = []

    class Kept(EdgeRefiner):
        def _refine(self, image, camera, mesh, pose, covariance):
            given.append(covariance)
            return pose, covariance, 1.0

    Kept({1: BOX}, {1: round_box})(IMAGE, CAMERA, [found(POSE, unknown)])
    assert axis @ given[0][3:, 3:] @ axis < ANY_TURN + 0.1


def test_a_refused_pose_stays_and_the_reason_is_counted():
    refiner = EdgeRefiner({1: BOX}, {1: MODEL})
    before = found(start_of(0))
    (after,) = refiner(np.full_like(IMAGE, 90), CAMERA, [before])
    assert np.array_equal(after.pose, before.pose) and after.score == before.score
    assert after.evidence[AGREEMENT] == 0 and refiner.counts == {"few_agree": 1}


def test_depth_refines_in_the_same_way():
    refiner = DepthRefiner({1: BOX}, {1: MODEL})
    refined, refused = (
        refiner(depth, CAMERA, [found(start_of(0))])[0] for depth in (depth_image(POSE), np.zeros((480, 640)))
    )
    assert errors(refined.pose)[0] < 0.001 < errors(refused.pose)[0]
    assert refiner.counts == {"refined": 1, "few_depths": 1}


def test_depth_leaves_what_the_edges_said():
    """The score's term for edges is still known after refinement on depth."""
    (on_edges,) = EdgeRefiner({1: BOX}, {1: MODEL})(IMAGE, CAMERA, [found(start_of(0))])
    on_depth = DepthRefiner({1: BOX}, {1: MODEL})
    for depth in (depth_image(POSE), np.zeros((480, 640))):
        (both,) = on_depth(depth, CAMERA, [on_edges])
        np.testing.assert_array_equal(both.evidence, on_edges.evidence)
        assert np.isfinite(both.evidence).all()


def test_an_object_without_a_mesh_stays():
    refiner = EdgeRefiner({}, {1: MODEL})
    before = found(POSE)
    assert refiner(IMAGE, CAMERA, [before]) == [before] and not refiner.counts


class WithEdges(EdgeRefiner):
    """Refines on another picture than the oracle's, which must be smooth: on one of its cube."""

    def __call__(self, image, camera, poses):
        return super().__call__(draw(self.meshes[1], test_keypoint.POSE, camera), camera, poses)


def scored_by_edges(refiner, mesh=True):
    """Poses of an estimator that sees the cube and scores by its edges alone, and its refiner's counts."""
    oracle = test_keypoint.Oracle(test_keypoint.PINHOLE, [test_keypoint.POSE])
    estimator = test_keypoint.estimator(oracle)
    edges = EdgeSpec(0.6, [-10.0, 0.0, 0.0, 0.0, 0.0, 20.0])
    decode = dataclasses.replace(estimator.bundle.manifest.decode, edges=edges)
    manifest = dataclasses.replace(estimator.bundle.manifest, decode=decode)
    estimator.bundle = dataclasses.replace(estimator.bundle, manifest=manifest)
    plain = estimator.pose_score
    estimator.refiner = refiner({1: Mesh.of_box(estimator.order[0])} if mesh else {}, estimator.objects)
    assert (plain, estimator.pose_score) == (0.5, 0.6)
    return estimator.estimate(oracle.image(), test_keypoint.PINHOLE).poses, estimator.refiner.counts


def test_a_pose_whose_edges_lie_on_edges_scores_higher_and_one_without_is_dropped():
    (pose,), counts = scored_by_edges(WithEdges)
    assert counts == {"refined": 1} and pose.score > 0.95 and pose.evidence[AGREEMENT] > 0.8
    poses, counts = scored_by_edges(EdgeRefiner)
    assert poses == [] and counts == {"few_agree": 1}


def test_where_no_edges_are_known_the_score_is_that_of_the_votes():
    (pose,), counts = scored_by_edges(EdgeRefiner, mesh=False)
    assert not counts and 0.6 < pose.score < 0.96 and np.isnan(pose.evidence[AGREEMENT])


def test_a_larger_object_has_a_larger_mesh():
    refiner = EdgeRefiner({1: BOX}, {1: MODEL}).scaled({1: 1.1})
    assert refiner.meshes[1].size == pytest.approx(1.1 * BOX.size)
    assert refiner.objects[1].diameter == pytest.approx(1.1 * MODEL.diameter)


def test_what_refines_is_made_of_the_bundles_meshes_or_given_ones(bundle):  # noqa: F811
    assert make_refiner("none", bundle) is None
    with pytest.raises(BundleError, match="refine: wanted a mesh of an object"):
        make_refiner("edges", bundle)
    assert set(make_refiner("edges", bundle, {1: BOX}).meshes) == {1}


def test_the_estimator_refines_what_it_keeps_and_says_how_long_it_took():
    oracle = test_keypoint.Oracle(test_keypoint.PINHOLE, [test_keypoint.POSE])
    estimator = test_keypoint.estimator(oracle)
    cube = estimator.order[0]
    estimator.refiner = EdgeRefiner({1: Mesh.of_box(cube)}, estimator.objects)
    scaled = estimator.scaled({1: 2.0})
    estimates = estimator.estimate(oracle.image(), test_keypoint.PINHOLE)
    assert sum(estimator.refiner.counts.values()) == len(estimates.poses) == 1
    assert "refine" in estimates.stages_ms
    assert scaled.refiner.meshes[1].size == pytest.approx(2 * estimator.refiner.meshes[1].size)
