# SPDX-License-Identifier: Apache-2.0
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("onnx")
from disc_bundle import write_disc_bundle
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from rig import RED, Rig, picture
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header, String
from vision_msgs.msg import Detection3D, Detection3DArray, ObjectHypothesisWithPose

from pose_kd_ros.core.camera import Camera
from pose_kd_ros.core.object_model import box_corners
from pose_kd_ros.nodes.decode_messages import image_to_rgb
from pose_kd_ros.nodes.encode_messages import array_to_image
from pose_kd_ros.nodes.overlay_node import OverlayNode, StampMatcher
from pose_kd_ros.nodes.parameters import UnusableParameter
from pose_kd_ros.pipeline.draw import AXES_RGB, draw_pose


def test_messages_of_one_stamp_are_paired_in_either_order():
    matcher = StampMatcher(kept=3)
    assert matcher.put(0, (1, 0), "image 1") is None
    assert matcher.put(1, (1, 0), "detections 1") == "image 1"
    assert matcher.put(1, (2, 0), "detections 2") is None
    assert matcher.put(0, (2, 0), "image 2") == "detections 2"
    assert matcher.put(1, (1, 5), "older than the pair") is None


def test_waiting_messages_are_bounded_and_do_not_outlive_a_loop():
    matcher = StampMatcher(kept=3)
    for second in range(10):
        matcher.put(0, (second, 0), second)
    assert matcher.put(1, (6, 0), "too old") is None
    assert matcher.put(1, (8, 0), "kept") == 8
    matcher.put(0, (2, 0), "the next round")
    assert matcher.put(1, (9, 0), "of the last round") is None


def test_a_drawn_box_stands_where_its_corners_project():
    image = np.zeros((240, 320, 3), np.uint8)
    camera = Camera([[300, 0, 160], [0, 300, 120], [0, 0, 1]], (), "plumb_bob", 320, 240)
    pose = np.eye(4)
    pose[2, 3] = 0.5
    draw_pose(image, camera, pose, box_corners((0, 0, 0), (0.1, 0.1, 0.1)))
    drawn = np.argwhere(image.any(-1))[:, ::-1]
    half = 300 * 0.05 / 0.45
    np.testing.assert_allclose(drawn.min(0), [160 - half, 120 - half], atol=1.5)
    assert tuple(image[120, 180]) == AXES_RGB[0] and tuple(image[140, 160]) == AXES_RGB[1]


def test_poses_behind_the_camera_draw_nothing():
    image = np.zeros((240, 320, 3), np.uint8)
    pose = np.diag([1.0, 1, 1, 1])
    pose[2, 3] = -1
    camera = Camera([[300, 0, 160], [0, 300, 120], [0, 0, 1]], (), "plumb_bob", 320, 240)
    draw_pose(image, camera, pose, box_corners((0, 0, 0), (0.1, 0.1, 0.1)), "gone")
    assert not image.any()


def test_a_reliability_that_does_not_exist_is_refused(ros):
    with pytest.raises(UnusableParameter, match="reliability: wanted one of best_effort"):
        OverlayNode(parameter_overrides=[Parameter("reliability", value="magic")])


@pytest.mark.parametrize(
    "text", ["", "[1]", '{"people": 3}', '{"people": {"keypoints": ["nose"], "links": [[0, 1]]}}']
)
def test_a_table_that_is_none_is_passed_over(ros, text):
    overlay = OverlayNode()
    ros.add(overlay)
    overlay._on_objects(String(data='{"people": {"keypoints": ["nose", "ear"], "links": [[0, 1]]}}'))
    before = overlay._skeleton
    assert before["links"] == [[0, 1]]
    overlay._on_objects(String(data=text))
    assert overlay._skeleton == before


@pytest.mark.parametrize("results", [[], [ObjectHypothesisWithPose()]])
def test_a_detection_without_a_result_or_rotation_is_left_out(ros, monkeypatch, results):
    overlay = OverlayNode()
    ros.add(overlay)
    published = []
    stand_in = SimpleNamespace(get_subscription_count=lambda: 1, publish=published.append)
    monkeypatch.setattr(overlay, "_overlay", stand_in)
    image = array_to_image(np.zeros((240, 320, 3), np.uint8), "rgb8", Header(frame_id="camera"))
    info = CameraInfo(header=image.header, width=320, height=240)
    info.k = [300.0, 0.0, 160.0, 0.0, 300.0, 120.0, 0.0, 0.0, 1.0]
    overlay._cameras.put(info)
    detection = Detection3D(results=results)
    for result in results:
        result.pose.pose.orientation.w = 0.0
    overlay._draw(image, Detection3DArray(detections=[detection]))
    assert not image_to_rgb(published[0]).any()


def test_the_overlay_shows_what_the_pose_node_found(ros, tmp_path):
    rig = Rig(ros, bundle=str(write_disc_bundle(tmp_path / "discs")), threads=1)
    overlay = OverlayNode(cli_args=["--ros-args", "-r", "detections:=/pose_node/detections"])
    ros.add(overlay)
    drawn = rig.hear(Image, "/overlay_node/overlay", qos_profile_sensor_data)
    rig.connect()
    assert ros.until(
        lambda: (
            overlay.count_subscribers("/overlay_node/overlay")
            and rig.camera.images.get_subscription_count() == 2
            and rig.pose_node.count_subscribers("/pose_node/detections") == 2
        )
    )
    plain = picture((150, 110, 30, RED))
    rig.show(plain)
    assert ros.until(lambda: drawn, 5)
    changed = (image_to_rgb(drawn[-1]) != plain).any(-1)
    assert drawn[-1].header == rig.detections[-1].header
    assert changed[60:160, 100:200].sum() > 200 and not changed[:, 250:].any()
