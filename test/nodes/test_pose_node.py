# SPDX-License-Identifier: Apache-2.0
import json
import time

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("onnx")
from disc_bundle import TURN, write_disc_bundle
from rig import FRAME, GREEN, LATCHED, RED, Rig, picture, position
from std_msgs.msg import String
from std_srvs.srv import Trigger
from visualization_msgs.msg import Marker

from pose_kd_ros.core.pose import from_quaternion, rotation_angle, rotation_between

DISC = (150, 110, 30)


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    return str(write_disc_bundle(tmp_path_factory.mktemp("bundles") / "discs"))


@pytest.fixture
def rig(ros, discs):
    return Rig(ros, bundle=discs, threads=1).connect()


def test_a_ball_is_where_it_was_painted_on_every_output(rig):
    rig.show(picture((*DISC, RED)))
    assert not rig.tf  # what was seen once may not be there
    status = rig.show(picture((*DISC, RED)))
    assert [t["class"] for t in status["tracks"]] == ["red_ball"]
    detections, transform = rig.detections[-1], rig.tf[-1].transforms[0]
    for header in (detections.header, detections.detections[0].header, transform.header):
        assert header.frame_id == FRAME
        assert header.stamp.sec + 1e-9 * header.stamp.nanosec == pytest.approx(rig.stamp)
    pose = detections.detections[0].results[0].pose
    at = np.array([pose.pose.position.x, pose.pose.position.y, pose.pose.position.z])
    np.testing.assert_allclose(at, position(*DISC), atol=0.02)
    q = pose.pose.orientation
    turn = rotation_between((0, 0, 1), at) @ TURN
    assert rotation_angle(from_quaternion([q.x, q.y, q.z, q.w]), turn) < 0.1
    assert transform.child_frame_id == "red_ball"
    assert transform.transform.translation.x == pose.pose.position.x
    assert np.linalg.eigvalsh(np.array(pose.covariance).reshape(6, 6))[0] > 0
    assert detections.detections[0].bbox.size.x == pytest.approx(0.1)
    assert {m.ns for m in rig.markers[-1].markers} == {"box", "axes"}


def test_a_frame_without_objects_is_answered_with_an_empty_array(rig):
    status = rig.show(picture())
    assert status["tracks"] == [] and rig.detections[-1].detections == [] and not rig.tf
    assert rig.detections[-1].header.frame_id == FRAME


def test_a_lost_object_leaves_the_detections_tf_and_the_markers(rig):
    rig.show(picture((*DISC, RED)))
    frames = len(rig.tf)
    assert rig.show(picture())["tracks"][0]["state"] == "predicted"
    assert [m.action for m in rig.markers[-1].markers] == [Marker.DELETE] * 2
    rig.show(picture(), step=1.0)
    assert rig.show(picture())["tracks"] == []
    assert len(rig.tf) == frames and rig.detections[-1].detections == []


def test_a_false_alarm_takes_no_frame_name(rig):
    rig.show(picture((60, 60, 30, RED)))
    for _ in range(4):
        status = rig.show(picture((260, 180, 30, RED)))
    assert status["tracks"][0]["id"] > 1
    assert {t.child_frame_id for message in rig.tf for t in message.transforms} == {"red_ball"}


def test_two_classes_are_tracked_with_ids_that_stay(rig):
    first = rig.show(picture((*DISC, RED), (250, 180, 20, GREEN)))
    second = rig.show(picture((154, 112, 30, RED), (248, 178, 20, GREEN)))
    ids = {t["class"]: t["id"] for t in first["tracks"]}
    assert set(ids) == {"red_ball", "green_ball"}
    assert {t["class"]: t["id"] for t in second["tracks"]} == ids
    assert {t["state"] for t in second["tracks"]} == {"tracked"}
    assert {t.child_frame_id for t in rig.tf[-1].transforms} == {"red_ball", "green_ball"}


def test_the_class_table_is_latched(ros, rig):
    late = ros.collect(ros.node("latecomer"), String, "/pose_node/objects", LATCHED)
    assert ros.until(lambda: late and rig.labels, 10)
    table = json.loads(late[0].data)
    assert [row["class"] for row in table["objects"]] == ["red_ball", "green_ball"]
    assert table["objects"][0]["origin"] == "the centre"
    assert [c.class_name for c in rig.labels[0].class_map] == ["red_ball", "green_ball"]


def test_a_reset_forgets_the_tracks(ros, rig):
    rig.show(picture((*DISC, RED)))
    assert rig.show(picture((*DISC, RED)))["tracks"][0]["state"] == "tracked"
    client = ros.node("caller").create_client(Trigger, "/pose_node/reset")
    assert ros.until(client.service_is_ready, 10)
    answer = client.call_async(Trigger.Request())
    assert ros.until(answer.done, 10) and answer.result().success
    assert rig.show(picture((*DISC, RED)))["tracks"][0]["state"] == "new"


def test_a_bag_that_loops_starts_afresh(rig):
    rig.show(picture((*DISC, RED)))
    assert rig.show(picture((*DISC, RED)))["tracks"][0]["state"] == "tracked"
    after = rig.show(picture((*DISC, RED)), step=-50.0)["tracks"]
    assert [t["state"] for t in after] == ["new"]
    assert rig.show(picture((*DISC, RED)))["tracks"][0]["state"] == "tracked"


def test_tracks_are_of_one_camera(rig):
    """A pose in the left camera's frame says nothing of what the right one sees."""
    rig.show(picture((*DISC, RED)))
    assert rig.show(picture((*DISC, RED)))["tracks"][0]["state"] == "tracked"
    rig.camera.info(frame="right_optical")
    rig.pause(0.1)
    found = rig.show(picture((*DISC, RED)), info=False, frame="right_optical")["tracks"]
    assert [track["state"] for track in found] == ["new"]
    assert [track["state"] for track in rig.show(picture((*DISC, RED)))["tracks"]] == ["new"]


def test_a_stamp_that_does_not_advance_is_refused(rig):
    rig.show(picture((*DISC, RED)))
    assert rig.show(picture((*DISC, RED)), step=0.0) is None
    assert rig.show(picture((*DISC, RED)))["refused_stamp"] == 1


def test_latency_and_stages_are_reported(rig):
    for _ in range(3):
        status = rig.show(picture((*DISC, RED)))
    assert {"wait", "read", "preprocess", "network", "decode", "pnp", "track", "publish", "total"} <= set(
        status["stages_ms"]
    )
    level, message, values = rig.diagnosis()
    assert level == b"\x00" and message == "estimating poses"
    assert int(values["frames_processed"]) == 3 and float(values["network_ms_p95"]) > 0


def test_frames_that_come_too_fast_are_dropped_and_counted(rig, monkeypatch):
    rig.show(picture())
    follower = rig.pose_node.processing._follower
    process = follower.process

    def slowly(*args):
        time.sleep(0.02)  # an idle machine keeps up otherwise
        return process(*args)

    monkeypatch.setattr(follower, "process", slowly)
    for _ in range(60):
        rig.stamp += 0.001
        rig.camera.image(rig.stamp, picture((*DISC, RED)))
        rig.pause(0.002)
    rig.pause(1.0)
    processing = rig.pose_node.processing
    counts = processing.health.counts(processing.latest.dropped)
    assert counts["dropped"] > 0
    assert counts["frames_received"] == counts["frames_processed"] + counts["dropped"]
    assert counts["frames_received"] + counts["lost"] == 61
