# SPDX-License-Identifier: Apache-2.0
"""Dense and heatmap bundles in the node: with a keypoint bundle as locator in them, with given
regions, with neither."""

import shutil

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("onnx")
from disc_bundle import TURN, write_disc_bundle
from rig import GREEN, RED, Rig, picture, position

from pose_kd_ros.core.pose import from_quaternion, rotation_angle, rotation_between

DISC = (150, 110, 30)
FAMILIES = ("dense", "heatmap")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    root = tmp_path_factory.mktemp("bundles")
    keypoint = write_disc_bundle(root / "keypoint")
    both = {f"{f} and locator": write_disc_bundle(root / f"{f}_both", f, keypoint) for f in FAMILIES}
    alone = {f: write_disc_bundle(root / f, f) for f in FAMILIES}
    return {name: str(folder) for name, folder in (alone | both).items()}


regional = pytest.mark.parametrize("family", FAMILIES)


def check_pose(rig):
    pose = rig.detections[-1].detections[0].results[0].pose.pose
    at = np.array([pose.position.x, pose.position.y, pose.position.z])
    np.testing.assert_allclose(at, position(*DISC), atol=0.02)
    q = pose.orientation
    turn = rotation_between((0, 0, 1), at) @ TURN
    assert rotation_angle(from_quaternion([q.x, q.y, q.z, q.w]), turn) < 0.1


@regional
def test_the_locator_finds_and_the_other_bundle_measures(ros, bundles, family):
    rig = Rig(ros, bundle=bundles[f"{family} and locator"], threads=1).connect()
    status = rig.show(picture((*DISC, RED)))
    assert [(t["class"], t["state"]) for t in status["tracks"]] == [("red_ball", "new")]
    check_pose(rig)
    assert "locate_network" in status["stages_ms"]
    status = rig.show(picture((*DISC, RED)))
    assert status["tracks"][0]["state"] == "tracked" and "locate_network" not in status["stages_ms"]
    check_pose(rig)
    assert rig.show(picture((*DISC, GREEN)), step=2.0)["tracks"][-1]["class"] == "green_ball"


@regional
def test_given_regions_need_no_locator(ros, bundles, family):
    rig = Rig(ros, bundle=bundles[family], use_regions=True, threads=1).connect()
    rig.give_region(150, 110, 80)
    assert rig.show(picture((*DISC, RED)))["tracks"][0]["class"] == "red_ball"
    check_pose(rig)


@regional
def test_a_bundle_that_nothing_tells_where_to_look_is_refused(ros, bundles, family):
    rig = Rig(ros, bundle=bundles[family], threads=1)
    message = rig.diagnosis()[1]
    assert rig.state == "unconfigured" and f"of the {family} family" in message
    assert "export it with --locator, or set use_regions" in message


def test_a_bundle_that_has_lost_its_locator_is_refused(ros, bundles, tmp_path):
    shutil.copytree(bundles["dense and locator"], tmp_path / "lost")
    shutil.rmtree(tmp_path / "lost" / "locator")
    rig = Rig(ros, bundle=str(tmp_path / "lost"), threads=1)
    assert rig.state == "unconfigured" and "locator/manifest.json: wanted the locator" in rig.diagnosis()[1]


def test_given_regions_take_the_locator_s_place(ros, bundles):
    rig = Rig(ros, bundle=bundles["dense and locator"], use_regions=True, threads=1).connect()
    status = rig.show(picture((*DISC, RED)))
    assert status["tracks"] == [] and "locate_network" not in status["stages_ms"]


def test_objects_of_another_size_are_found_at_their_scale(ros, bundles):
    rig = Rig(ros, bundle=bundles["dense and locator"], object_scale=2.0, threads=1).connect()
    rig.show(picture((*DISC, RED)))
    pose = rig.detections[-1].detections[0].results[0].pose.pose
    assert pose.position.z == pytest.approx(2 * position(*DISC)[2], rel=0.05)
