# SPDX-License-Identifier: Apache-2.0
"""Poses in a frame that does not move with the camera, by TF at the image's stamp."""

import json

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("onnx")
from disc_bundle import write_disc_bundle
from geometry_msgs.msg import TransformStamped
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from rig import FRAME, GREEN, RED, Camera, Rig, picture, position, to_time
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger
from tf2_msgs.msg import TFMessage

from pose_kd_ros.core.pose import from_quaternion, from_rotation_vector, make_pose, to_quaternion
from pose_kd_ros.nodes.decode_messages import image_to_rgb
from pose_kd_ros.nodes.overlay_node import OverlayNode
from pose_kd_ros.nodes.pose_node import PoseNode
from pose_kd_ros.nodes.transform_buffer import MOVING, STATIC

AT = np.array([0.4, -0.3, 1.2])  # of the ball, in the world
TURN = from_rotation_vector([1.2, -0.5, 0.8])
DISC = (150, 110, 30)


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    return str(write_disc_bundle(tmp_path_factory.mktemp("bundles") / "discs"))


class Arm:
    """Says on TF where the camera is."""

    def __init__(self, rig):
        self.rig, node = rig, rig.ros.node("arm")
        self.moving = node.create_publisher(TFMessage, "/tf", MOVING)
        self.static = node.create_publisher(TFMessage, "/tf_static", STATIC)
        assert rig.ros.until(lambda: self.moving.get_subscription_count() == 2)  # the listener's, too
        assert rig.ros.until(self.static.get_subscription_count)

    def say(self, parent, child, pose, stamp=None):
        message = TransformStamped(child_frame_id=child)
        message.header.frame_id, message.header.stamp = parent, to_time(stamp or 0.0)
        to, q = message.transform, to_quaternion(pose[:3, :3])
        to.translation.x, to.translation.y, to.translation.z = map(float, pose[:3, 3])
        to.rotation.x, to.rotation.y, to.rotation.z, to.rotation.w = map(float, q)
        (self.static if stamp is None else self.moving).publish(TFMessage(transforms=[message]))


def start(ros, discs, **parameters):
    settings = {"output_frame": "world", "tf_timeout": 0.3, "smooth": False, **parameters}
    rig = Rig(ros, bundle=discs, threads=1, **settings).connect()
    return rig, Arm(rig)


def place_of(detection):
    p = detection.results[0].pose.pose.position
    return np.array([p.x, p.y, p.z])


def refusal(rig):
    return rig.pose_node.processing.health.problem


def test_a_still_ball_stays_where_it_is_while_the_camera_moves(ros, discs):
    rig, arm = start(ros, discs)
    arm.say("world", "base", make_pose(np.eye(3), AT))
    for k in range(6):
        disc = (150 + 8 * k, 110 - 6 * k, 30 + k)
        # The camera's place at the image's stamp is halfway between what TF says before and after it.
        middle, move = -TURN @ position(*disc), np.array([0.02, 0.03, -0.01])
        for side in (-1, 1):
            arm.say("base", FRAME, make_pose(TURN, middle + side * move), rig.stamp + 0.04 + side * 0.015)
        rig.pause(0.05)
        assert rig.show(picture((*disc, RED)))["tracks"]
        detections = rig.detections[-1]
        assert detections.header.frame_id == "world" == detections.detections[0].header.frame_id
        assert detections.header.stamp == to_time(rig.stamp)
        np.testing.assert_allclose(place_of(detections.detections[0]), AT, atol=0.03)
        assert rig.markers[-1].markers[0].header.frame_id == "world"
    own = [t for message in rig.tf for t in message.transforms if t.child_frame_id == "red_ball"]
    assert len(own) == 5 and {t.header.frame_id for t in own} == {"world"}
    assert own[-1].transform.translation.x == place_of(rig.detections[-1].detections[0])[0]
    assert json.loads(rig.objects[-1].data)["output_frame"] == "world"


def test_poses_and_covariances_are_those_of_the_camera_turned(ros, discs):
    results = []
    for frame in ("", "world"):
        rig = Rig(ros, bundle=discs, threads=1, smooth=False, output_frame=frame).connect()
        if frame:
            Arm(rig).say("world", FRAME, make_pose(TURN, AT))
            rig.pause(0.1)
        rig.show(picture((*DISC, RED)))
        results.append(rig.detections[-1].detections[0].results[0].pose)
        for node in ros.nodes[:]:
            ros.remove(node)
    in_camera, in_world = (np.array(one.covariance).reshape(6, 6) for one in results)
    for block in (slice(0, 3), slice(3, 6)):
        np.testing.assert_allclose(in_world[block, block], TURN @ in_camera[block, block] @ TURN.T, atol=1e-9)
    assert not np.allclose(in_world, in_camera, rtol=0.1)
    turns = [from_quaternion([getattr(one.pose.orientation, k) for k in "xyzw"]) for one in results]
    np.testing.assert_allclose(turns[1], TURN @ turns[0], atol=1e-6)


def test_without_the_transform_the_frame_is_refused_in_words(ros, discs):
    rig, arm = start(ros, discs, tf_timeout=0.05)
    ball = picture((*DISC, RED))
    assert rig.show(ball) is None
    assert refusal(rig) == (
        "TF: wanted 'camera_optical' in 'world' at 100.040 s, "
        "found no frame 'world' and no frame 'camera_optical' (frames: none)"
    )
    arm.say("base", FRAME, np.eye(4))
    arm.say("world", "odom", np.eye(4))
    rig.pause(0.1)
    assert rig.show(ball) is None
    assert refusal(rig).endswith("two trees: 'camera_optical' is below 'base', 'world' below 'world'")
    arm.say("odom", "base", np.eye(4), 99.0)
    arm.say("odom", "base", np.eye(4), rig.stamp)
    rig.pause(0.1)
    assert rig.show(ball) is None  # TF ends before the image, and nothing is extrapolated
    assert refusal(rig).endswith("found 'base' in 'odom': stamps from 99.000 to 100.080 s")
    assert not rig.detections and rig.diagnosis()[0] == b"\x02"
    arm.say("odom", "base", np.eye(4), rig.stamp + 0.05)
    rig.pause(0.1)
    assert rig.show(ball)["refused_tf"] == 3 and len(rig.detections) == 1


def test_a_transform_that_comes_a_little_later_is_waited_for(ros, discs):
    rig, arm = start(ros, discs, tf_timeout=1.0)
    rig.camera.info()
    arm.say("world", FRAME, np.eye(4), 100.0)
    rig.pause(0.1)
    rig.camera.image(100.04, picture((*DISC, RED)))
    rig.pause(0.3)
    assert not rig.detections and not rig.refusals()
    arm.say("world", FRAME, np.eye(4), 100.05)
    assert ros.until(lambda: rig.detections, 0.6)


def test_a_loop_forgets_where_the_camera_was(ros, discs):
    rig, arm = start(ros, discs, tf_timeout=0.0)
    for stamp in np.arange(100.0, 100.6, 0.1):
        arm.say("world", FRAME, np.eye(4), float(stamp))
    rig.pause(0.1)
    ball = picture((*DISC, RED))
    assert rig.show(ball, step=0.45)
    assert rig.show(ball, step=-0.4) is None  # the second round's TF has not come yet
    assert "no frame 'world'" in refusal(rig)


def test_transforms_that_no_robot_would_use_are_warned_of_for_a_while(ros, discs, monkeypatch):
    rig, arm = start(ros, discs)
    arm.say("world", FRAME, np.eye(4))
    rig.pause(0.05)
    message = TransformStamped(child_frame_id="wrist")
    message.transform.rotation.w = 0.0
    arm.moving.publish(TFMessage(transforms=[message]))
    rig.pause(0.1)
    assert rig.show(picture((*DISC, RED)))["tracks"]
    level, text, _ = rig.diagnosis()
    assert level == b"\x01" and text.startswith("TF: 'wrist' in '' is left out: quaternion: wanted")
    monkeypatch.setattr("pose_kd_ros.nodes.processing.FORGET_S", 0.0)  # after that without another one
    assert rig.show(picture((*DISC, RED)))["tracks"]
    assert rig.diagnosis()[:2] == (b"\x00", "estimating poses")


def test_the_nodes_own_ear_on_tf_is_nobody_who_wants_poses(ros, discs):
    values = {"bundle": discs, "threads": 1, "output_frame": "world"}
    node = PoseNode(parameter_overrides=[Parameter(name, value=value) for name, value in values.items()])
    ros.add(node)
    node.start()
    camera = Camera(ros)
    assert ros.until(lambda: camera.images.get_subscription_count() and camera.infos.get_subscription_count())
    assert ros.until(lambda: node._outputs.tf.get_subscription_count() == 1, 10)
    camera.info()
    camera.image(100.0, picture((*DISC, RED)))
    assert ros.until(lambda: node.processing.health.unwatched == 1, 10)
    node.create_subscription(TFMessage, "/tf", print, MOVING)
    assert ros.until(lambda: node._outputs.tf.get_subscription_count() == 2, 10)
    camera.image(100.04, picture((*DISC, RED)))
    assert ros.until(lambda: node.processing.health.refused["tf"] == 1, 10)


def test_the_overlay_carries_poses_back_into_the_image(ros, discs):
    rig, arm = start(ros, discs)
    overlay = OverlayNode(cli_args=["--ros-args", "-r", "detections:=/pose_node/detections"])
    ros.add(overlay)
    drawn = rig.hear(Image, "/overlay_node/overlay", qos_profile_sensor_data)
    assert ros.until(lambda: overlay.count_subscribers("/overlay_node/overlay"))
    assert ros.until(lambda: rig.pose_node.count_subscribers("/pose_node/detections") == 2)
    arm.say("world", FRAME, make_pose(TURN, AT))
    plain = picture((*DISC, RED))

    def show():
        rig.show(plain)
        return drawn

    assert ros.until(show, 10)  # TF is listened to from the first frame that needs it
    changed = (image_to_rgb(drawn[-1]) != plain).any(-1)
    assert changed[60:160, 100:200].sum() > 200 and not changed[:, 250:].any()


def test_people_have_pixels_and_no_frame(ros, tmp_path):
    people = str(write_disc_bundle(tmp_path / "people", "people"))
    rig = Rig(ros, bundle=people, threads=1, camera=False, use_regions=True, output_frame="world")
    assert rig.state == "unconfigured"
    assert "output_frame: wanted none for bundle 'discs'" in rig.diagnosis()[1]


def test_two_objects_and_the_answer_on_demand_are_in_the_frame(ros, discs):
    rig, arm = start(ros, discs, detect_frames=2)
    arm.say("world", FRAME, make_pose(TURN, AT))
    rig.pause(0.1)
    balls = picture((*DISC, RED), (250, 180, 20, GREEN))
    rig.show(balls)
    client = rig.listener.create_client(Trigger, "/pose_node/detect")
    assert ros.until(client.service_is_ready, 10)
    answer = client.call_async(Trigger.Request())
    rig.pause(0.2)
    for _ in range(2):
        rig.show(balls)
    assert ros.until(answer.done, 10)
    assert answer.result().message.startswith("2 objects in 2 frames in 'world': ")
