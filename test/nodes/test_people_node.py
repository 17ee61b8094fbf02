# SPDX-License-Identifier: Apache-2.0
"""A bundle for people in the node: boxes in, keypoints out; and what the overlay draws of them."""

import json

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("onnx")
from disc_bundle import BODY, write_disc_bundle
from rclpy.qos import qos_profile_sensor_data
from rig import FRAME, LATCHED, RED, Rig, picture
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import Header, String

from pose_kd_ros.core.sensor_messages import UnusableMessage, to_seconds
from pose_kd_ros.nodes.decode_messages import image_to_rgb
from pose_kd_ros.nodes.keypoints import from_cloud, to_cloud
from pose_kd_ros.nodes.overlay_node import OverlayNode, draw_people
from pose_kd_ros.pipeline.people import Person

LEFT, RIGHT = (90, 110, 30, RED), (230, 120, 24, RED)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    root = tmp_path_factory.mktemp("bundles")
    return {name: str(write_disc_bundle(root / name, name)) for name in ("people",)}


class PeopleRig(Rig):
    answers = ("/pose_node/keypoints", "/pose_node/status")

    def __init__(self, ros, **parameters):
        super().__init__(ros, use_regions=True, threads=1, **parameters)
        self.keypoints = self.hear(PointCloud2, "/pose_node/keypoints")

    def give_people(self, *discs, **options):
        self.give_regions(*((u, v, 2 * radius) for u, v, radius, _ in discs), **options)


@pytest.fixture
def rig(ros, bundles):
    return PeopleRig(ros, bundle=bundles["people"]).connect()


def places(disc):
    u, v, radius, _ = disc
    return np.array([u, v]) + BODY * radius


def test_boxes_in_keypoints_out(rig):
    rig.give_people(LEFT, RIGHT, name="person")
    status = rig.show(picture(LEFT, RIGHT), info=False)  # needs no calibration
    cloud, found = rig.keypoints[-1], from_cloud(rig.keypoints[-1])
    assert cloud.header.frame_id == FRAME and to_seconds(cloud.header.stamp) == pytest.approx(rig.stamp)
    assert (cloud.height, cloud.width, cloud.point_step) == (1, 6, 20)
    assert [field.name for field in cloud.fields] == ["u", "v", "score", "person", "keypoint"]
    assert found["person"].tolist() == [0, 0, 0, 1, 1, 1] and found["keypoint"].tolist() == [0, 1, 2] * 2
    wanted = np.concatenate([places(LEFT), places(RIGHT)])
    np.testing.assert_allclose(np.stack([found["u"], found["v"]], -1), wanted, atol=0.8)
    assert (found["score"] > 0.9).all() and status["people"] == 2 and "network" in status["stages_ms"]
    assert not rig.detections and not rig.tf and not rig.markers
    assert rig.pose_node.count_publishers("/pose_node/detections") == 0


def test_frames_without_boxes_or_people_are_answered_with_an_empty_cloud(rig):
    rig.give_people(LEFT)
    rig.show(picture(RIGHT))
    rig.show(picture(LEFT))
    assert [cloud.width for cloud in rig.keypoints] == [0, 0]
    rig.give_people(LEFT, name="dog")
    rig.show(picture(LEFT))
    assert rig.keypoints[-1].width == 0 and rig.status()["people"] == 0


def test_instances_are_limited_and_thresholds_apply(ros, bundles):
    rig = PeopleRig(ros, bundle=bundles["people"], max_instances=1, cell_threshold=1.0).connect()
    rig.give_people(LEFT, RIGHT)
    assert rig.show(picture(LEFT, RIGHT))["people"] == 1 and rig.keypoints[-1].width == 0


def test_the_names_of_the_keypoints_are_latched(ros, rig):
    late = ros.collect(ros.node("latecomer"), String, "/pose_node/objects", LATCHED)
    assert ros.until(lambda: late, 10)
    people = json.loads(late[0].data)["people"]
    assert people["keypoints"] == ["nose", "left_hand", "right_hand"] and people["links"] == [[0, 1], [0, 2]]


def test_a_deactivated_node_can_be_activated_again(ros, rig):
    rig.pose_node.trigger_deactivate()
    rig.pose_node.trigger_activate()
    rig.connect()
    rig.give_people(LEFT)
    assert rig.show(picture(LEFT))["people"] == 1


def test_without_boxes_a_bundle_for_people_is_refused(ros, bundles):
    rig = Rig(ros, bundle=bundles["people"], threads=1)
    assert rig.state == "unconfigured" and "set use_regions" in rig.diagnosis()[1]


def test_the_overlay_draws_the_skeleton(ros, rig):
    remap = [f"{name}:=/pose_node/{name}" for name in ("keypoints", "objects")]
    overlay = OverlayNode(cli_args=["--ros-args", "-r", remap[0], "-r", remap[1]])
    ros.add(overlay)
    drawn = rig.hear(Image, "/overlay_node/overlay", qos_profile_sensor_data)
    assert ros.until(
        lambda: (
            overlay.count_subscribers("/overlay_node/overlay")
            and rig.camera.images.get_subscription_count() == 2
            and rig.pose_node.count_subscribers("/pose_node/keypoints") == 2
            and overlay._skeleton["links"]
        )
    )
    rig.give_people(LEFT)
    rig.show(picture(LEFT), info=False)
    assert ros.until(lambda: drawn, 5)
    changed = (image_to_rgb(drawn[-1]) != picture(LEFT)).any(-1)
    assert drawn[-1].header == rig.keypoints[-1].header
    nose, left, _ = places(LEFT).round().astype(int)
    middle = (nose + left) // 2
    assert changed[nose[1], nose[0]] and changed[middle[1] - 1 : middle[1] + 2, middle[0]].any()
    assert not changed[:, 150:].any()


def person(number=0):
    return Person(np.array([[1.5, 2.5], [np.nan, np.nan]]), np.array([0.8, 0.0]), np.arange(4.0), number)


def test_clouds_hold_what_is_seen_and_are_read_again():
    cloud = to_cloud([person(), person(3)], 0.0, Header())
    assert from_cloud(cloud).tolist() == [(1.5, 2.5, np.float32(0.8), n, 0) for n in (0, 3)]
    assert to_cloud([person()], 0.9, Header()).width == 0
    cloud.fields = cloud.fields[1:]
    with pytest.raises(UnusableMessage, match=r"keypoints: wanted .*'person'.* found v, score"):
        from_cloud(cloud)


def test_keypoints_that_the_skeleton_does_not_know_are_not_drawn():
    image = np.zeros((20, 20, 3), np.uint8)
    draw_people(image, from_cloud(to_cloud([person()], 0.0, Header())), {"keypoints": [], "links": []})
    assert not image.any()
