# SPDX-License-Identifier: Apache-2.0
"""TF as a node hears it: where a frame was in another one at an image's stamp.

tf2_ros is not needed: the arithmetic is that of recordings, so that a bag and a live system agree.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
from rclpy.qos import DurabilityPolicy, QoSProfile
from tf2_msgs.msg import TFMessage

from ..core.sensor_messages import UnusableMessage
from ..recordings.cdr import nanoseconds
from ..recordings.transforms import Transforms

KEPT_NS = 10_000_000_000  # as tf2 does
MOVING = QoSProfile(depth=100)
STATIC = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class TransformBuffer:
    """Listens to /tf and /tf_static. The executor fills it while another thread may wait in ``lookup``.

    on_fault: gets the text of a transform that cannot be used. kept_ns: how long moving frames are kept.
    """

    def __init__(self, node, on_fault: Callable[[str], object], kept_ns: int = KEPT_NS):
        self._node, self._on_fault = node, on_fault
        self._transforms, self._changed = Transforms(kept_ns), threading.Condition()
        self._made = [
            node.create_subscription(TFMessage, "/tf", lambda message: self._put(message, False), MOVING),
            node.create_subscription(
                TFMessage, "/tf_static", lambda message: self._put(message, True), STATIC
            ),
        ]

    def _put(self, message: TFMessage, static: bool) -> None:
        with self._changed:
            for transform in message.transforms:
                try:
                    self._transforms.add(transform, static)
                except ValueError as error:
                    self._on_fault(f"TF: {error}")
            self._changed.notify_all()

    def lookup(self, target: str, source: str, stamp, timeout_s: float = 0.0) -> np.ndarray:
        """Return ``T_target_source`` (4, 4) at a stamp (builtin_interfaces/Time); wait for it so long.

        Raises UnusableMessage that says what was wanted and what is there.
        """
        at, deadline = nanoseconds(stamp), time.monotonic() + timeout_s
        with self._changed:
            while (pose := self._transforms.lookup(target, source, at)) is None:
                if (left := deadline - time.monotonic()) <= 0:
                    found = self._transforms.why_not(target, source, at)
                    raise UnusableMessage(
                        "tf", f"TF: wanted {source!r} in {target!r} at {at * 1e-9:.3f} s, found {found}"
                    )
                self._changed.wait(left)
        return pose

    def clear(self) -> None:
        """Forget the moving frames: time went back."""
        with self._changed:
            self._transforms.forget_moving()

    def destroy(self) -> None:
        """Take the subscriptions down."""
        for subscription in self._made:
            self._node.destroy_subscription(subscription)
