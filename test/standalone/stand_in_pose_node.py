# SPDX-License-Identifier: Apache-2.0
"""Behaves as the pose node does towards the demo: lifecycle states; detections, status and TF per image."""

import json

import rclpy
from geometry_msgs.msg import TransformStamped
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
from std_msgs.msg import String
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection3D, Detection3DArray, ObjectHypothesisWithPose


class StandIn(LifecycleNode):
    def __init__(self):
        super().__init__("pose_node")
        self.count = 0
        self.detections = self.create_publisher(Detection3DArray, "~/detections", 10)
        self.status = self.create_publisher(String, "~/status", 10)
        self.tf = self.create_publisher(TFMessage, "/tf", 100)
        self.create_subscription(Image, "image", self.on_image, qos_profile_sensor_data)
        self.trigger_configure()
        self.trigger_activate()

    def on_image(self, image):
        self.count += 1
        state = "predicted" if self.count % 4 == 0 else "tracked"
        result = ObjectHypothesisWithPose()
        result.hypothesis.class_id, result.hypothesis.score = "cube", 0.9
        result.pose.pose.position.z = 0.5
        found = Detection3D(header=image.header, id="1", results=[result])
        found.bbox.center = result.pose.pose
        found.bbox.size.x = found.bbox.size.y = found.bbox.size.z = 0.084
        self.tf.publish(TFMessage(transforms=[TransformStamped(header=image.header, child_frame_id="cube")]))
        self.detections.publish(Detection3DArray(header=image.header, detections=[found]))
        track = {"id": 1, "class": "cube", "state": state, "score": 0.9}
        status = {"dropped": 0, "latency_ms": 3.0, "stages_ms": {"network": 2.0}, "tracks": [track]}
        self.status.publish(String(data=json.dumps(status)))


def main():
    rclpy.init()
    try:
        rclpy.spin(StandIn())
    except (KeyboardInterrupt, rclpy.executors.ExternalShutdownException):
        pass


if __name__ == "__main__":
    main()
