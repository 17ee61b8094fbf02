# SPDX-License-Identifier: Apache-2.0
"""No work that nobody asked for: ~/enable, and topics without subscribers."""

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("onnx")
from disc_bundle import write_disc_bundle
from rclpy.parameter import Parameter
from rig import EARS, RED, Camera, Rig, picture
from std_msgs.msg import String
from std_srvs.srv import SetBool
from vision_msgs.msg import Detection3DArray
from visualization_msgs.msg import Marker

from pose_kd_ros.nodes.pose_node import PoseNode

BALL = picture((150, 110, 30, RED))
ERROR, OK, WARN = b"\x02", b"\x00", b"\x01"


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    return str(write_disc_bundle(tmp_path_factory.mktemp("bundles") / "discs"))


def enable(rig, on):
    client = rig.listener.create_client(SetBool, "/pose_node/enable")
    assert rig.ros.until(client.service_is_ready, 10)
    answer = client.call_async(SetBool.Request(data=on))
    assert rig.ros.until(answer.done, 10)
    rig.listener.destroy_client(client)
    return answer.result().success, answer.result().message


def test_a_disabled_node_is_idle_and_comes_back(ros, discs):
    rig = Rig(ros, bundle=discs, threads=1).connect()
    rig.show(BALL)
    worker = rig.pose_node.processing.worker
    assert enable(rig, False) == (True, "disabled: images are not subscribed to")
    assert enable(rig, False) == (True, "disabled already")
    assert rig.state == "active" and not worker._thread.is_alive()
    for topic in ("/image", "/camera_info"):
        assert not rig.pose_node.get_subscriptions_info_by_topic(topic)
    assert ros.until(lambda: [m.action for m in rig.markers[-1].markers] == [Marker.DELETE] * 2, 10)
    assert rig.diagnosis()[:2] == (OK, "disabled by ~/enable")
    assert enable(rig, True) == (True, "enabled")
    assert rig.connect().show(BALL)["tracks"][0]["state"] == "new"


def test_lifecycle_transitions_of_a_disabled_node(ros, discs):
    rig = Rig(ros, bundle=discs, threads=1).connect()
    enable(rig, False)
    rig.pose_node.trigger_deactivate()
    assert rig.state == "inactive"
    assert enable(rig, True) == (False, "wanted an active node, found inactive")
    rig.pose_node.trigger_activate()
    assert rig.connect().show(BALL)["tracks"]


def test_what_cannot_be_enabled_says_why(ros, discs, monkeypatch):
    rig = Rig(ros, bundle=discs, threads=1, camera=False)
    enable(rig, False)

    def fail(*_, **__):
        raise RuntimeError("no more threads")

    with monkeypatch.context() as patch:
        patch.setattr("pose_kd_ros.nodes.processing.Worker", fail)
        success, message = enable(rig, True)
    assert not success and "cannot enable: no more threads" in message
    assert rig.diagnosis()[0] == ERROR
    assert enable(rig, True) == (True, "enabled")
    assert rig.diagnosis()[0] != ERROR or "no image" in rig.diagnosis()[1]


def test_nothing_is_done_while_nobody_subscribes(ros, discs):
    node = PoseNode(parameter_overrides=[Parameter("bundle", value=discs), Parameter("threads", value=1)])
    ros.add(node)
    node.start()
    camera, listener = Camera(ros), ros.node("listener")
    assert ros.until(lambda: camera.images.get_subscription_count() and camera.infos.get_subscription_count())
    camera.info()
    health, runs = node.processing.health, []
    network = node._estimator.network
    node._estimator.network = lambda image, *rest: (runs.append(1), network(image, *rest))[1]
    camera.image(100.0, BALL)
    assert ros.until(lambda: health.unwatched == 1, 10)
    assert not runs and health.processed == 0 and health.counts(0)["unwatched"] == 1
    found = ros.collect(listener, Detection3DArray, "/pose_node/detections", EARS)
    assert ros.until(node._outputs.detections.get_subscription_count, 10)
    camera.image(100.04, BALL)
    assert ros.until(lambda: found, 10)
    assert runs and len(found[0].detections) == 1 and health.processed == 1


def test_objects_are_new_after_nobody_subscribed_for_long(ros, discs):
    rig = Rig(ros, bundle=discs, threads=1).connect()
    rig.show(BALL)
    assert rig.show(BALL)["tracks"][0]["state"] == "tracked"
    assert rig.show(BALL, step=2.9)["tracks"][0]["state"] == "tracked"  # a short while is a slow camera
    ears = [s for s in rig.listener.subscriptions if s.topic_name in Rig.answers]
    for one in ears:
        rig.listener.destroy_subscription(one)
    health, outputs = rig.pose_node.processing.health, rig.pose_node._outputs
    assert ros.until(lambda: not outputs.watched(True), 10)
    rig.stamp += 2.0
    rig.camera.image(rig.stamp, BALL)
    assert ros.until(lambda: health.unwatched == 1, 10)
    rig.statuses = rig.hear(String, "/pose_node/status")
    assert ros.until(outputs.status.get_subscription_count, 10)
    assert rig.show(BALL, step=2.0)["tracks"][0]["state"] == "new"


def test_messages_that_nobody_hears_are_not_made(ros, discs, monkeypatch):
    rig = Rig(ros, bundle=discs, threads=1).connect()
    rig.show(BALL)
    markers = next(s for s in rig.listener.subscriptions if s.topic_name == "/pose_node/markers")
    rig.listener.destroy_subscription(markers)
    assert ros.until(lambda: not rig.pose_node._outputs.markers.get_subscription_count(), 10)
    monkeypatch.setattr(rig.pose_node._outputs._board, "update", lambda *_: 1 / 0)
    assert rig.show(BALL)["tracks"]
    monkeypatch.undo()
