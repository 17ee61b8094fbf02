# SPDX-License-Identifier: Apache-2.0
"""Poses on demand: ~/detect averages some frames and answers in words and on ~/detected."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("onnx")
from disc_bundle import write_disc_bundle
from rclpy.parameter import Parameter
from rig import GREEN, LATCHED, RED, Rig, picture, position
from std_srvs.srv import SetBool, Trigger
from vision_msgs.msg import Detection3DArray

from pose_kd_ros.core.pose import from_rotation_vector, make_pose, rotation_angle
from pose_kd_ros.nodes.detect import Collection, averaged

BALLS = picture((150, 110, 30, RED), (240, 150, 24, GREEN))


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    return str(write_disc_bundle(tmp_path_factory.mktemp("bundles") / "discs"))


def ask(rig, kind=Trigger, name="detect", **fields):
    client = rig.listener.create_client(kind, f"/pose_node/{name}")
    assert rig.ros.until(client.service_is_ready, 10)
    return client.call_async(kind.Request(**fields))


def frames_until(rig, answer, image=BALLS):
    rig.camera.info()
    rig.pause(0.1)
    for _ in range(200):
        if answer.done():
            return answer.result()
        rig.stamp += 0.04
        rig.camera.image(rig.stamp, image)
        rig.pause(0.05)
    raise AssertionError("no answer")


def test_frames_are_averaged_and_published_latched(ros, discs):
    rig = Rig(ros, bundle=discs, threads=1, detect_frames=4).connect()
    answer = frames_until(rig, ask(rig))
    assert answer.success
    assert answer.message.startswith("2 objects in 4 frames in 'camera_optical': ")
    assert "red_ball (id " in answer.message and "in 4 frames, score" in answer.message
    found = rig.hear(Detection3DArray, "/pose_node/detected", LATCHED)
    assert ros.until(lambda: found, 10)
    places = {d.results[0].hypothesis.class_id: d.results[0].pose.pose.position for d in found[0].detections}
    wanted = position(150, 110, 30)
    assert np.allclose([places["red_ball"].x, places["red_ball"].y, places["red_ball"].z], wanted, atol=0.02)
    assert found[0].header.frame_id == "camera_optical"


def test_classes_can_be_chosen_and_are_checked(ros, discs):
    rig = Rig(ros, bundle=discs, threads=1, detect_frames=2, detect_classes="green_ball").connect()
    answer = frames_until(rig, ask(rig))
    assert "1 objects in 2 frames" in answer.message and "green_ball" in answer.message
    rig.pose_node.set_parameters([Parameter("detect_classes", value="green_ball, cup")])
    answer = frames_until(rig, ask(rig))
    assert not answer.success
    assert answer.message == "detect_classes: wanted some of red_ball, green_ball, found cup"


def test_frames_that_do_not_come_are_no_success(ros, discs):
    rig = Rig(ros, bundle=discs, threads=1, detect_timeout=0.5).connect()
    answer = ask(rig)
    assert ros.until(answer.done, 10)
    assert not answer.result().success
    assert answer.result().message.startswith("wanted 5 frames, found 0 in time")
    rig.pose_node.set_parameters([Parameter("detect_timeout", value=10.0)])
    assert frames_until(rig, ask(rig)).success


def test_nothing_to_see_is_said(ros, discs):
    rig = Rig(ros, bundle=discs, threads=1, detect_frames=2).connect()
    answer = frames_until(rig, ask(rig), picture())
    assert not answer.success and answer.message == "0 objects in 2 frames: none"


def test_a_disabled_node_wakes_for_a_request_only(ros, discs):
    rig = Rig(ros, bundle=discs, threads=1, detect_frames=3).connect()
    disabled = ask(rig, SetBool, "enable", data=False)
    assert ros.until(disabled.done, 10) and rig.pose_node.processing is None
    answer = ask(rig)
    assert ros.until(lambda: rig.pose_node.processing is not None, 10)
    assert ros.until(lambda: rig.camera.images.get_subscription_count() == 1, 10)
    assert frames_until(rig, answer).success
    assert rig.pose_node.processing is None and rig.diagnosis()[1] == "disabled by ~/enable"


@pytest.mark.parametrize("wish", ["enable", "deactivate and activate"])
def test_a_wish_during_a_request_of_a_disabled_node_is_kept(ros, discs, wish):
    rig = Rig(ros, bundle=discs, threads=1, detect_frames=3).connect()
    disabled = ask(rig, SetBool, "enable", data=False)
    assert ros.until(disabled.done, 10)
    answer = ask(rig)
    assert ros.until(lambda: rig.pose_node.processing is not None, 10)
    if wish == "enable":
        enabled = ask(rig, SetBool, "enable", data=True)
        assert ros.until(enabled.done, 10) and enabled.result().success
        assert frames_until(rig, answer).success
    else:
        rig.pose_node.trigger_deactivate()
        rig.pose_node.trigger_activate()
        rig.pose_node.set_parameters([Parameter("detect_timeout", value=1.0)])
        assert ros.until(answer.done, 10) and not answer.result().success
    assert rig.pose_node.processing is not None
    assert rig.connect().show(BALLS)["tracks"]


def test_a_bundle_that_is_swapped_in_during_a_request_leaves_a_disabled_node_disabled(ros, discs):
    rig = Rig(ros, bundle=discs, threads=1, detect_timeout=1.0).connect()
    disabled = ask(rig, SetBool, "enable", data=False)
    assert ros.until(disabled.done, 10)
    answer = ask(rig)
    assert ros.until(lambda: rig.pose_node.processing is not None, 10)
    assert rig.pose_node.set_parameters([Parameter("bundle", value=discs)])[0].successful
    assert ros.until(answer.done, 10) and rig.pose_node.processing is None


def test_a_disabled_node_that_fails_during_a_request_comes_back_disabled(ros, discs):
    rig = Rig(ros, bundle=discs, threads=1, max_errors=1, detect_timeout=60.0).connect()
    disabled = ask(rig, SetBool, "enable", data=False)
    assert ros.until(disabled.done, 10)

    def fail(*_):
        raise MemoryError("no memory")

    rig.pose_node._estimator.network = fail
    answer = ask(rig)
    assert ros.until(lambda: rig.pose_node.processing is not None, 10)
    assert not frames_until(rig.connect(), answer).success
    assert ros.until(lambda: rig.state == "active", 20)
    assert rig.pose_node.processing is None and rig.diagnosis()[1] == "disabled by ~/enable"


@pytest.mark.parametrize("end", ["another bundle", "disabled and enabled", "deactivated and activated"])
def test_a_request_whose_frames_will_not_come_is_answered_at_once(ros, discs, end):
    rig = Rig(ros, bundle=discs, threads=1, detect_timeout=60.0, camera=False)
    answer = ask(rig)
    assert ros.until(lambda: rig.pose_node._collection is not None, 10)
    if end == "another bundle":
        assert rig.pose_node.set_parameters([Parameter("bundle", value=discs)])[0].successful
    elif end == "disabled and enabled":
        for on in (False, True):
            rig.pose_node._on_enable(SetBool.Request(data=on), SetBool.Response())
    else:
        rig.pose_node.trigger_deactivate()
        rig.pose_node.trigger_activate()
    assert ros.until(answer.done, 10) and not answer.result().success
    wanted = "wanted 5 frames, found 0 before the node was stopped or got another bundle"
    assert answer.result().message.startswith(wanted)
    assert rig.pose_node.processing is not None and rig.pose_node._collection is None


def test_a_node_that_is_not_set_up_says_so(ros):
    rig = Rig(ros, provider="magic", camera=False)
    answer = ask(rig)
    assert ros.until(answer.done, 10) and not answer.result().success
    assert answer.result().message == "wanted an active node, found unconfigured"


def test_one_request_at_a_time_and_only_while_active(ros, discs):
    rig = Rig(ros, bundle=discs, threads=1, detect_timeout=1.0).connect()
    first = ask(rig)
    rig.pause(0.3)
    second = ask(rig)
    assert ros.until(second.done, 10)
    assert second.result().message == "wanted one request at a time, found one that is not answered yet"
    rig.pose_node.trigger_deactivate()
    assert ros.until(first.done, 10) and not first.result().success
    third = ask(rig)
    assert ros.until(third.done, 10)
    assert third.result().message == "wanted an active node, found inactive"


def track(shift, angle, score=0.9):
    pose = make_pose(from_rotation_vector((0.0, 0.0, angle)), np.array([0.1, 0.0, 0.5]) + shift)
    return SimpleNamespace(object_id=1, id=7, pose=pose, covariance=1e-6 * np.eye(6), score=score)


def test_one_bad_frame_does_not_count_and_frames_in_a_row_promise_no_more_than_they_hold():
    rng = np.random.default_rng(0)
    good = [track(rng.normal(0, 1e-3, 3), rng.normal(0, 0.01)) for _ in range(9)]
    mean = averaged([*good, track((0.3, 0.0, 0.2), 2.0)])
    assert mean.frames <= 9 and np.linalg.norm(mean.pose[:3, 3] - (0.1, 0.0, 0.5)) < 2e-3
    assert rotation_angle(mean.pose[:3, :3]) < 0.02
    assert mean.covariance[0, 0] == pytest.approx(1e-6 / max(1, mean.frames * 0.24 / 1.76))
    assert averaged(good[:3]).covariance[0, 0] == pytest.approx(1e-6)


def test_objects_before_and_after_a_reset_are_not_averaged():
    """Ids begin at 1 again, so another object has the id of the first."""
    model = SimpleNamespace(name="cube")
    seen = [SimpleNamespace(**vars(track((x, 0.0, 0.0), 0.0)), state="tracked") for x in (0.0, 0.3)]
    collection = Collection(2, 60.0, [], {1: model})
    collection.add(seen[:1], None)
    collection.restart()
    assert not collection.over
    for _ in range(2):
        collection.add(seen[1:], None)
    collection.restart()  # comes too late: what was asked for is there
    (found,) = collection.outcome()
    assert collection.over and found.frames == 2 and found.pose[0, 3] == pytest.approx(0.4)


def test_a_reset_begins_a_request_again(ros, discs):
    rig = Rig(ros, bundle=discs, threads=1, detect_frames=3).connect()
    answer = ask(rig)
    assert ros.until(lambda: rig.pose_node._collection is not None, 10)
    rig.show(BALLS)
    assert ros.until(lambda: rig.pose_node._collection.frames == 1, 10)
    rig.pose_node.processing.reset("a test asks")
    assert rig.pose_node._collection.frames == 0
    assert frames_until(rig, answer).success
