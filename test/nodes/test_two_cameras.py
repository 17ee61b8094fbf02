# SPDX-License-Identifier: Apache-2.0
"""Two nodes side by side, as two cameras have them: nothing that they say collides."""

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("onnx")
from diagnostic_msgs.msg import DiagnosticArray
from disc_bundle import write_disc_bundle
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from rig import EARS, FOCAL, RED, picture, to_time
from sensor_msgs.msg import CameraInfo, Image
from tf2_msgs.msg import TFMessage

from pose_kd_ros.nodes.encode_messages import array_to_image
from pose_kd_ros.nodes.pose_node import PoseNode

BALL = picture((150, 110, 30, RED))


def test_two_nodes_in_two_namespaces(ros, tmp_path):
    discs = str(write_disc_bundle(tmp_path / "discs"))
    listener, cameras = ros.node("listener"), {}
    transforms = ros.collect(listener, TFMessage, "/tf", EARS)
    diagnostics = ros.collect(listener, DiagnosticArray, "/diagnostics", EARS)
    for side in ("left", "right"):
        values = {"bundle": discs, "threads": 1, "tf_prefix": f"{side}/", "confirm_hits": 1}
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        node = PoseNode(namespace=side, parameter_overrides=overrides)
        ros.add(node)
        node.start()
        images = listener.create_publisher(Image, f"/{side}/image", qos_profile_sensor_data)
        infos = listener.create_publisher(CameraInfo, f"/{side}/camera_info", qos_profile_sensor_data)
        cameras[side] = node, images, infos
    for side, (node, images, infos) in cameras.items():
        assert ros.until(lambda: images.get_subscription_count() and infos.get_subscription_count())  # noqa: B023
        assert ros.until(node._outputs.tf.get_subscription_count)
        info = CameraInfo(width=320, height=240, k=[FOCAL, 0.0, 160.0, 0.0, FOCAL, 120.0, 0.0, 0.0, 1.0])
        info.header.frame_id = f"{side}_optical"
        infos.publish(info)
        assert ros.until(lambda: node.processing.inputs._cameras._latest[0], 5)  # noqa: B023
        image = array_to_image(BALL, "rgb8", info.header)
        image.header.stamp = to_time(100.0)
        images.publish(image)
    assert ros.until(lambda: len(transforms) == 2, 10)
    parents = {t.child_frame_id: t.header.frame_id for m in transforms for t in m.transforms}
    assert parents == {"left/red_ball": "left_optical", "right/red_ball": "right_optical"}
    names = {"left/pose_node: pose estimation", "right/pose_node: pose estimation"}
    assert ros.until(lambda: names <= {s.name for m in diagnostics for s in m.status}, 10)
