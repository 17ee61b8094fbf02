# SPDX-License-Identifier: Apache-2.0
"""No frame ends perception: what it raises is counted and logged, and the node finds its way back."""

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("onnx")
from disc_bundle import write_disc_bundle
from rclpy.parameter import Parameter
from rig import FRAME, RED, Rig, picture, to_time
from sensor_msgs.msg import CompressedImage

from pose_kd_ros.nodes import pose_node, regions
from pose_kd_ros.nodes.recovery import LONGEST_S, Recovery

BALL = picture((150, 110, 30, RED))
ERROR, OK, WARN = b"\x02", b"\x00", b"\x01"


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    return str(write_disc_bundle(tmp_path_factory.mktemp("bundles") / "discs"))


def fail(*args):
    raise MemoryError("no more of it")


def test_a_frame_that_raises_is_a_counted_refusal(ros, discs, monkeypatch):
    rig = Rig(ros, bundle=discs, threads=1).connect()
    first = rig.show(BALL)["tracks"][0]
    worker = rig.pose_node.processing.worker
    with monkeypatch.context() as patch:
        patch.setattr(rig.pose_node.processing._follower, "process", fail)
        assert rig.show(BALL) is None
    level, message, values = rig.diagnosis()
    assert level == ERROR and message == "MemoryError: no more of it" and values["refused_error"] == "1"
    again = rig.show(BALL)
    assert again["tracks"][0] == {**first, "state": "tracked"} and again["refused_error"] == 1
    assert rig.pose_node.processing.worker is worker and rig.state == "active"


def test_frames_that_all_raise_make_the_node_configure_again(ros, discs, monkeypatch):
    rig = Rig(ros, bundle=discs, threads=1, max_errors=2).connect()
    rig.show(BALL)
    first = rig.pose_node.processing
    monkeypatch.setattr(first._follower, "process", fail)
    assert rig.show(BALL) is None and rig.show(BALL) is None
    assert ros.until(lambda: rig.state == "unconfigured", 10)
    assert rig.diagnosis()[1].startswith("2 frames in a row failed: MemoryError: no more of it; configuring")
    assert ros.until(lambda: rig.state == "active", 10)
    assert rig.pose_node.processing is not first
    assert rig.connect().show(BALL)["tracks"][0]["class"] == "red_ball"


def test_single_errors_between_good_frames_do_not_add_up(ros, discs, monkeypatch):
    rig = Rig(ros, bundle=discs, threads=1, max_errors=2).connect()
    processing = rig.pose_node.processing
    for _ in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(processing._follower, "process", fail)
            assert rig.show(BALL) is None
        assert rig.show(BALL)["tracks"]
    assert rig.pose_node.processing is processing


def test_a_configuration_that_fails_is_tried_again(ros, discs, monkeypatch):
    rig = Rig(ros, bundle=discs, threads=1, max_errors=1).connect()
    rig.show(BALL)
    monkeypatch.setattr(rig.pose_node.processing._follower, "process", fail)
    with monkeypatch.context() as patch:
        patch.setattr(pose_node, "load_estimator", fail)
        rig.camera.image(rig.stamp + 1, BALL)
        assert ros.until(lambda: "configuring again in 2 s" in rig.pose_node._fault, 10)
    assert ros.until(lambda: rig.state == "active", 10)


@pytest.mark.parametrize("max_errors", [0, 5])
def test_a_swap_that_leaves_nothing_running_makes_the_node_configure_again(
    ros, discs, monkeypatch, max_errors
):
    rig = Rig(ros, bundle=discs, threads=1, max_errors=max_errors).connect()
    rig.show(BALL)
    stop = rig.pose_node.processing.stop

    def stop_late():
        stop()
        raise RuntimeError("the worker did not end")

    monkeypatch.setattr(rig.pose_node.processing, "stop", stop_late)
    result = rig.pose_node.set_parameters([Parameter("bundle", value=discs)])[0]
    assert not result.successful and "the worker did not end" in result.reason
    assert ros.until(lambda: rig.state == "unconfigured", 10)
    assert "the worker did not end" in rig.pose_node._fault
    if max_errors:
        assert ros.until(lambda: rig.state == "active", 10)
        assert rig.connect().show(BALL)["tracks"][0]["class"] == "red_ball"


def test_tries_come_less_and_less_often():
    recovery = Recovery()
    assert not recovery.due(1e9)
    assert [recovery.plan(0.0) for _ in range(8)] == [1, 2, 4, 8, 16, 32, LONGEST_S, LONGEST_S]
    assert recovery.due(LONGEST_S) and not recovery.due(LONGEST_S - 1)
    recovery.cancel()
    assert not recovery.due(1e9)
    recovery.succeeded()
    assert recovery.plan(10.0) == 1 and recovery.due(11.0)


def test_a_size_bomb_is_refused_before_it_is_decoded(ros, discs, monkeypatch):
    rig = Rig(ros, bundle=discs, threads=1, image_transport="compressed").connect()
    monkeypatch.setattr(cv2, "imdecode", fail)
    rig.camera.info()
    rig.pause(0.1)
    data = bytearray(cv2.imencode(".jpg", BALL)[1].tobytes())
    at = data.find(b"\xff\xc0")
    for size, reason in (((65000, 65000), "image_size"), ((640, 480), "camera_info_size")):
        data[at + 5 : at + 9] = size[1].to_bytes(2, "big") + size[0].to_bytes(2, "big")
        message = CompressedImage(format="jpeg", data=bytes(data))
        rig.stamp += 0.04
        message.header.frame_id, message.header.stamp = FRAME, to_time(rig.stamp)
        rig.camera.compressed.publish(message)
        refused = rig.pose_node.processing.health.refused
        assert ros.until(lambda: refused, 5) and list(refused) == [reason]  # noqa: B023
        refused.clear()


def test_half_a_pair_of_pixels(ros, discs):
    rig = Rig(ros, bundle=discs, threads=1).connect()
    assert rig.show(np.zeros((240, 321, 2), np.uint8), "yuv422") is None
    assert "yuv422: wanted an even width, found 321x240" in rig.diagnosis()[1]


def test_a_frame_that_is_too_old(ros, discs):
    rig = Rig(ros, bundle=discs, threads=1, max_age=10.0).connect()
    rig.stamp = rig.listener.get_clock().now().nanoseconds * 1e-9 - 60
    assert rig.show(BALL) is None
    level, message, values = rig.diagnosis()
    assert level == ERROR and "at most 10 s old (max_age), found one 6" in message
    assert values["refused_max_age"] == "1"
    rig.stamp += 60
    assert rig.show(BALL)["tracks"]


def test_no_more_regions_than_max_instances_are_looked_at(ros, discs):
    rig = Rig(ros, bundle=discs, threads=1, use_regions=True, max_instances=3).connect()
    rig.show(BALL)
    network, runs = rig.pose_node._estimator.network, []
    rig.pose_node._estimator.network = lambda image, *rest: (runs.append(1), network(image, *rest))[1]
    rig.give_regions(*((20 + 3 * i, 100, 30) for i in range(79)), (150, 110, 80))
    rig.show(BALL)
    assert len(runs) == 3
    assert rig.diagnosis()[2]["regions_ignored_over_max_instances"] == "77"


@pytest.mark.parametrize(
    ("stamp", "name", "text", "counted"),
    [
        (0.0, None, "found none", "stamp"),
        (95.0, None, "found one -5.", "stamp"),
        (
            None,
            "1",
            "wanted boxes of red_ball, green_ball or without a class, with an extent, found '1'",
            "class_or_size",
        ),
    ],
)
def test_regions_that_are_not_used_are_told_of(ros, discs, stamp, name, text, counted):
    rig = Rig(ros, bundle=discs, threads=1, use_regions=True).connect()
    rig.show(BALL)
    if stamp is not None:
        rig.stamp, now = stamp, rig.stamp
    rig.give_regions((150, 110, 80), name=name)
    if stamp is not None:
        rig.stamp = now
    assert rig.show(BALL)["tracks"] == []
    level, message, values = rig.diagnosis()
    assert level == WARN and text in message and values[f"regions_ignored_{counted}"] == "1"
    rig.give_regions((150, 110, 80), name="red_ball")
    assert rig.show(BALL)["tracks"]
    assert rig.diagnosis()[:2] == (OK, "estimating poses")


def test_the_warning_of_a_message_of_regions_ends_when_no_more_come(ros, discs, monkeypatch):
    monkeypatch.setattr(regions, "FORGET_S", 0.5, raising=False)
    rig = Rig(ros, bundle=discs, threads=1, use_regions=True).connect()
    rig.show(BALL)
    rig.stamp -= 5
    rig.give_region(150, 110, 80)
    rig.stamp += 5
    rig.show(BALL)
    assert "regions are not used" in rig.pose_node.processing.health.warning()
    rig.pause(0.5)
    rig.show(BALL)
    assert rig.pose_node.processing.health.warning() == ""


def test_a_rectified_topic_with_a_distorted_camera(ros, discs):
    rig = Rig(ros, bundle=discs, threads=1)
    rig.pose_node.processing.inputs._image = RectifiedName(rig.pose_node.processing.inputs._image)
    rig.connect()
    rig.camera.info(d=[0.1, 0.0, 0.0, 0.0, 0.0])
    rig.pause(0.1)
    assert rig.show(BALL, info=False)
    level, message, _ = rig.diagnosis()
    assert level == WARN and "/camera/image_rect: its name says rectified" in message
    assert rig.show(BALL) and rig.diagnosis()[0] == OK


class RectifiedName:
    """A subscription by another name."""

    topic_name = "/camera/image_rect"

    def __init__(self, subscription):
        self.msg_type = subscription.msg_type


@pytest.mark.parametrize("policy", ["durability", "deadline"])
def test_other_policies_can_be_overridden_too(ros, discs, policy):
    value = {"durability": "transient_local", "deadline": 2_000_000_000}[policy]
    rig = Rig(ros, bundle=discs, threads=1, **{f"qos_overrides./image.subscription.{policy}": value})
    profile = rig.pose_node.get_subscriptions_info_by_topic("/image")[0].qos_profile
    found = getattr(profile, policy)
    assert (found.name == "TRANSIENT_LOCAL") if policy == "durability" else (found.nanoseconds == value)
