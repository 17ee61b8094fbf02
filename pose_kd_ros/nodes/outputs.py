# SPDX-License-Identifier: Apache-2.0
"""Everything the pose node says to the world about a frame."""

from __future__ import annotations

from typing import Any, Protocol

from rclpy.lifecycle import LifecyclePublisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Header, String
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection3DArray, LabelInfo
from visualization_msgs.msg import MarkerArray

from ..core.track import MEASURED
from ..pipeline.follow import Followed
from ..pipeline.people import Observed, PeopleEstimator
from .encode_messages import (
    FrameNames,
    MarkerBoard,
    to_detections,
    to_label_info,
    to_object_table,
    to_tf,
    track_rows,
)
from .keypoints import to_cloud, to_skeleton
from .parameters import Settings

RELIABLE = QoSProfile(depth=10)
TF = QoSProfile(depth=100)
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Outputs(Protocol):
    """The publishers of what a follower finds; they publish while the node is active."""

    status: LifecyclePublisher

    def announce(self, settings: Settings) -> None:
        """Publish, latched, what a subscriber must know beforehand."""
        ...

    def take(self, estimator: Any) -> None:
        """Speak for another estimator from now on."""
        ...

    def watched(self, publish_tf: bool, own_ears: int = 0) -> bool:
        """Whether anybody subscribes to what a frame gives, beside the node itself, which has ``own_ears``
        subscriptions of /tf."""
        ...

    def publish(self, outcome: Any, header: Header, settings: Settings) -> None:
        """Publish a frame's outcome; the header has the image's stamp and the frame that the poses are in."""
        ...

    def summary(self, outcome: Any) -> dict:
        """What ~/status says of a frame's outcome."""
        ...

    def clear(self) -> None:
        """Take back what stays visible when frames end."""
        ...

    def destroy(self) -> None:
        """Take the publishers down."""
        ...


class PoseOutputs:
    """The publishers of poses, made once when the node configures.

    They remember frame names and shown markers. They publish while the node is active and drop the rest.
    """

    def __init__(self, node, estimator):
        self._node = node
        self.take(estimator)
        self.detections = node.create_lifecycle_publisher(Detection3DArray, "~/detections", RELIABLE)
        self.tf = node.create_lifecycle_publisher(TFMessage, "/tf", TF)
        self.markers = node.create_lifecycle_publisher(MarkerArray, "~/markers", RELIABLE)
        self.detected = node.create_lifecycle_publisher(Detection3DArray, "~/detected", LATCHED)
        self.status = node.create_lifecycle_publisher(String, "~/status", RELIABLE)
        self.objects = node.create_lifecycle_publisher(String, "~/objects", LATCHED)
        self.label_info = node.create_lifecycle_publisher(LabelInfo, "~/label_info", LATCHED)
        self._names, self._board = FrameNames(), MarkerBoard()

    def take(self, estimator) -> None:
        """Speak for another estimator from now on."""
        self._estimator, self._models = estimator, estimator.objects

    def watched(self, publish_tf: bool, own_ears: int = 0) -> bool:
        """As ``Outputs.watched``."""
        by_others = self.tf.get_subscription_count() > own_ears
        return (publish_tf and by_others) or any(map(_heard, (self.detections, self.markers, self.status)))

    def announce(self, settings: Settings) -> None:
        """Publish the class table, latched."""
        header = Header(stamp=self._node.get_clock().now().to_msg())
        self.objects.publish(
            to_object_table(self._estimator.bundle, self._models, settings.tf_prefix, settings.output_frame)
        )
        self.label_info.publish(to_label_info(self._models, self._estimator.pose_score, header))

    def publish(self, followed: Followed, header: Header, settings: Settings) -> None:
        """Publish a frame's tracks under the image's stamp: those measured in it.

        Include predicted tracks if ``publish_predicted`` is set.

        Convention: a lost object is absent from detections, its markers are deleted
        and its frame is no longer sent. A frame is sent of confirmed tracks alone.
        """
        tracks, models = followed.tracks, self._models
        shown = [
            t
            for t in tracks
            if t.state in MEASURED or (settings.publish_predicted and t.state == "predicted")
        ]
        names, prefix = self._names, settings.tf_prefix
        framed = [(t, names.name(t, models[t.object_id], prefix)) for t in shown if t.confirmed]
        if settings.publish_tf and framed and _heard(self.tf):
            self.tf.publish(to_tf(framed, header))
        if _heard(self.detections):
            self.detections.publish(to_detections(shown, models, header))
        if _heard(self.markers):
            self.markers.publish(self._board.update(shown, models, header))
        self._names.keep([t for t in tracks if t.state != "lost"])

    def summary(self, followed: Followed) -> dict:
        """What ~/status says of a frame's outcome."""
        return {"tracks": track_rows(followed.tracks, self._models)}

    def clear(self) -> None:
        """Delete all markers and forget the frame names."""
        self.markers.publish(self._board.clear(Header(stamp=self._node.get_clock().now().to_msg())))
        self._names.keep([])

    def destroy(self) -> None:
        """Take the publishers down."""
        made = self.detections, self.detected, self.tf, self.markers
        for publisher in (*made, self.status, self.objects, self.label_info):
            self._node.destroy_lifecycle_publisher(publisher)


class PeopleOutputs:
    """The publishers of a bundle for people, in the place of ``PoseOutputs``: keypoints, and no poses."""

    def __init__(self, node, estimator: PeopleEstimator):
        self._node = node
        self.take(estimator)
        self.keypoints = node.create_lifecycle_publisher(PointCloud2, "~/keypoints", RELIABLE)
        self.status = node.create_lifecycle_publisher(String, "~/status", RELIABLE)
        self.objects = node.create_lifecycle_publisher(String, "~/objects", LATCHED)

    def take(self, estimator: PeopleEstimator) -> None:
        """Speak for another estimator from now on."""
        self._estimator = estimator

    def announce(self, settings: Settings) -> None:
        """Publish the keypoints' names and links, latched."""
        self.objects.publish(to_skeleton(self._estimator.bundle))

    def watched(self, publish_tf: bool, own_ears: int = 0) -> bool:
        """As ``Outputs.watched``."""
        return _heard(self.keypoints) or _heard(self.status)

    def publish(self, observed: Observed, header: Header, settings: Settings) -> None:
        """Publish a frame's keypoints under the image's header; an empty cloud says that none were seen."""
        self.keypoints.publish(to_cloud(observed.people, self._estimator.cell_score, header))

    def summary(self, observed: Observed) -> dict:
        """What ~/status says of a frame's outcome."""
        return {"people": len(observed.people)}

    def clear(self) -> None:
        """Do nothing: keypoints are not shown beyond their frame."""

    def destroy(self) -> None:
        """Take the publishers down."""
        for publisher in (self.keypoints, self.status, self.objects):
            self._node.destroy_lifecycle_publisher(publisher)


def _heard(publisher: LifecyclePublisher) -> bool:
    return publisher.get_subscription_count() > 0


def make_outputs(node, estimator) -> Outputs:
    """Return the publishers for what an estimator finds."""
    return (PeopleOutputs if isinstance(estimator, PeopleEstimator) else PoseOutputs)(node, estimator)
