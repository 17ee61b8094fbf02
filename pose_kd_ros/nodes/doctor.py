# SPDX-License-Identifier: Apache-2.0
"""Checks a live system for what keeps the pose node from working, and prints the fix.

    ros2 run pose_kd_ros doctor --image /camera/image_raw --camera-info /camera/camera_info --bundle cube
    --output-frame base_link

Listens for --seconds, then prints one line for each check: OK, WARN or FAIL. Exit code 1 if any is FAIL, or
after Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, ReliabilityPolicy, qos_check_compatible
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import get_rmw_implementation_identifier, remove_ros_args
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from ..bundle.find import find_bundle
from ..core.sensor_messages import UnusableMessage, compressed_to_rgb
from ..pipeline.families import open_estimator
from ..pipeline.follow import JUMP_S
from ..recordings.cdr import nanoseconds
from .cameras import CameraLatch
from .decode_messages import image_to_rgb
from .health import describe
from .inputs import RECTIFIED
from .transform_buffer import KEPT_NS, TransformBuffer

OK, WARN, FAIL = "OK", "WARN", "FAIL"
MOST_S = 3600.0  # that it listens
DISCOVERY_S = 10.0  # that publishers get at most to be found
SENSOR = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)  # as the pose node asks
LISTEN = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
SLOWEST_HZ = 5.0  # tracks are lost between slower images
OLDEST_S, NEWEST_S = 1.0, 0.05  # stamps may be so old, or so far in the future
DEFAULT_SEGMENT = 524288  # bytes of Fast DDS's shared memory
PROFILES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
TYPES = {"sensor_msgs/msg/Image": Image, "sensor_msgs/msg/CompressedImage": CompressedImage}


@dataclass(frozen=True)
class Check:
    """One line of the report. level: OK, WARN or FAIL; fix: what to do."""

    name: str
    level: str
    text: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.level:4s}  {self.name:13s} {self.text}" + (
            f"\n{'':20s}fix: {self.fix}" * bool(self.fix)
        )


@dataclass(frozen=True)
class Arrived:
    """When an image came, by this machine's monotonic clock and by the ROS clock, and its stamp."""

    at: float
    clock_ns: int
    stamp: object


class Listener:
    """Hears the camera, /clock and TF through a node that is spun here; no wait is without an end."""

    def __init__(self, node: Node, image: str, camera_info: str, seconds: float):
        self.node = node
        self.image_topic, self.info_topic = (
            node.resolve_topic_name(image),
            node.resolve_topic_name(camera_info),
        )
        self.arrived: list[Arrived] = []
        self.image: Image | CompressedImage | None = None
        self.info: CameraInfo | None = None
        self.cameras = CameraLatch()
        self.clock_ns: int | None = None
        self.tf_fault = ""  # the last one
        # Stamps are looked up after the last image has come: TF of the first ones must be there still.
        kept = KEPT_NS + int(1e9 * seconds)
        self.frames = TransformBuffer(node, self._on_tf_fault, kept)
        self.seconds = seconds
        node.create_subscription(Clock, "/clock", self._on_clock, LISTEN)
        node.create_subscription(CameraInfo, self.info_topic, self._on_info, LISTEN)
        self.publishers: list = []

    def listen(self) -> None:
        """Find the image's publishers, then listen to what they send."""
        self._spin(DISCOVERY_S, until_found=True)
        self.publishers = self.node.get_publishers_info_by_topic(self.image_topic)
        kinds = [TYPES[one.topic_type] for one in self.publishers if one.topic_type in TYPES]
        if kinds:
            self.node.create_subscription(kinds[0], self.image_topic, self._on_image, SENSOR)
            self._spin(self.seconds)
            self.publishers = self.node.get_publishers_info_by_topic(self.image_topic) or self.publishers

    def _spin(self, seconds: float, until_found: bool = False) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and rclpy.ok():
            rclpy.spin_once(self.node, timeout_sec=min(left, 0.1))
            if until_found and self.node.count_publishers(self.image_topic):
                return

    def _on_image(self, message: Image | CompressedImage) -> None:
        now = self.node.get_clock().now().nanoseconds if self.clock_ns is None else self.clock_ns
        self.image = message
        self.arrived.append(Arrived(time.monotonic(), now, message.header.stamp))

    def _on_tf_fault(self, text: str) -> None:
        self.tf_fault = text

    def _on_info(self, info: CameraInfo) -> None:
        self.info = info
        self.cameras.put(info)

    def _on_clock(self, message: Clock) -> None:
        self.clock_ns = nanoseconds(message.clock)


def examine(heard: Listener, bundle: str, output_frame: str) -> Iterator[Check]:
    """Yield all checks; those of the images' contents only where images came."""
    rmw = get_rmw_implementation_identifier()
    yield Check(
        "ros", OK, f"{os.environ.get('ROS_DISTRO', 'unknown')}, {rmw}, Python {platform.python_version()}"
    )
    yield check_clock(heard)
    yield check_publishers(heard)
    if heard.image is None:
        yield Check(
            "camera_info",
            FAIL if heard.info is None else OK,
            f"{heard.info_topic}: wanted images to compare it with",
        )
    else:
        image, size = decode(heard.image)
        yield image
        yield check_rate(heard)
        yield check_stamps(heard)
        yield check_camera_info(heard, size)
        if heard.info is not None:
            yield check_rectified(heard.image_topic, heard.info)
        yield check_frame_name(heard.image.header.frame_id)
        if "fastrtps" in rmw:
            yield check_shared_memory(len(heard.image.data))
        if output_frame:
            yield check_tf(heard, output_frame)
    if bundle:
        yield check_bundle(bundle)


def check_publishers(heard: Listener) -> Check:
    """Whether images are published, as messages and with a QoS that the node can hear."""
    topic, found = heard.image_topic, heard.publishers
    names = ", ".join(map(describe, found))
    if not found:
        others = [name for name, types in heard.node.get_topic_names_and_types() if TYPES.keys() & set(types)]
        text = f"{topic}: wanted a publisher of images, found none"
        fix = f"--image with one of {', '.join(sorted(others))}" if others else "start the camera's driver"
        return Check("image", FAIL, text, fix + "; is ROS_DOMAIN_ID the same?")
    if not any(one.topic_type in TYPES for one in found):
        return Check(
            "image", FAIL, f"{topic}: wanted {' or '.join(TYPES)}, found {names}", "name another topic"
        )
    for listener in heard.node.get_subscriptions_info_by_topic(topic):
        for one in found:
            result, reason = qos_check_compatible(one.qos_profile, listener.qos_profile)
            if result == QoSCompatibility.ERROR:
                name = f"{listener.node_namespace.rstrip('/')}/{listener.node_name}"
                text = f"{topic}: wanted a QoS that {name} can hear, found {describe(one)}: {reason}"
                fix = "reliability:=best_effort for the pose node; or another QoS of the publisher"
                return Check("image", FAIL, text, fix)
    if not heard.arrived:
        text = f"{topic}: wanted images, found none from {names}"
        fix = "is the camera running? do images fit Fast DDS's shared memory (docs/node.md)?"
        return Check("image", FAIL, text, fix)
    if len(found) > 1:
        return Check("image", WARN, f"{topic}: wanted one publisher, found {names}", "stop all but one")
    return Check("image", OK, f"{topic}: {names}")


def decode(message: Image | CompressedImage) -> tuple[Check, tuple[int, int]]:
    """Whether the pose node can decode the image, and its (width, height)."""
    compressed = isinstance(message, CompressedImage)
    try:
        height, width = (compressed_to_rgb if compressed else image_to_rgb)(message).shape[:2]
    except UnusableMessage as error:
        size = (0, 0) if compressed else (message.width, message.height)
        return Check("content", FAIL, str(error), "set another encoding in the camera's driver"), size
    name = f"{message.format}, for image_transport:=compressed" if compressed else message.encoding
    return Check("content", OK, f"{width}x{height} {name}"), (width, height)


def check_rate(heard: Listener) -> Check:
    """Images per second, and the longest time without one."""
    times = np.array([one.at for one in heard.arrived])
    if len(times) < 3:
        return Check("rate", FAIL, f"wanted {SLOWEST_HZ:g} Hz or more, found {len(times)} images", FIX_RATE)
    gaps = np.diff(times)
    rate = 1 / gaps.mean()
    text = f"{rate:.1f} Hz, longest gap {1e3 * gaps.max():.0f} ms"
    if rate < SLOWEST_HZ:
        return Check("rate", WARN, f"wanted {SLOWEST_HZ:g} Hz or more, found {text}", FIX_RATE)
    return Check("rate", OK, text)


FIX_RATE = "the driver's frame rate; the shared-memory profile (docs/node.md); a cable in place of wireless"


def check_stamps(heard: Listener) -> Check:
    """Whether images are stamped, in order and by the clock that this system uses."""
    stamps = np.array([nanoseconds(one.stamp) for one in heard.arrived], np.int64)
    steps = np.diff(stamps)
    if not stamps.all() or ((steps <= 0) & (steps >= -JUMP_S * 1e9)).any():  # farther back: a bag that loops
        return Check(
            "stamps",
            FAIL,
            "wanted stamps that advance, found zero, repeated or earlier ones",
            "the driver must stamp its images",
        )
    ages = np.array([one.clock_ns for one in heard.arrived], np.int64) - stamps
    age = float(np.median(ages)) * 1e-9
    if not -NEWEST_S <= age <= OLDEST_S:
        clock = "this machine's clock" if heard.clock_ns is None else "/clock"
        text = f"wanted stamps {-NEWEST_S:g} to {OLDEST_S:g} s old by {clock}, found {age:.3f} s"
        fix = "synchronise the clocks (chrony, PTP); a bag: play --clock with use_sim_time, or play --restamp"
        return Check("stamps", WARN, text, fix)
    return Check("stamps", OK, f"{1e3 * age:.0f} ms old on arrival")


def check_clock(heard: Listener) -> Check:
    """Whether use_sim_time, as given to this node, suits /clock."""
    simulated = heard.node.get_parameter("use_sim_time").value
    if simulated and heard.clock_ns is None:
        text = "use_sim_time: wanted messages on /clock, found none: time stands still"
        return Check("clock", FAIL, text, "play with --clock, or use_sim_time:=false")
    if not simulated and heard.clock_ns is not None:
        text = "/clock: wanted nobody, as use_sim_time is not set here, found a clock"
        return Check(
            "clock", WARN, text, "use_sim_time:=true for the pose node and this one, or stop that clock"
        )
    return Check("clock", OK, "simulated, /clock" if simulated else "this machine's")


def check_camera_info(heard: Listener, size: tuple[int, int]) -> Check:
    """Whether there is a calibration of the image's camera."""
    assert heard.image is not None, "images came"
    topic = heard.info_topic
    if heard.info is None:
        found = ", ".join(map(describe, heard.node.get_publishers_info_by_topic(topic))) or "no publisher"
        return Check(
            "camera_info",
            FAIL,
            f"{topic}: wanted a camera_info, found {found}",
            "--camera-info with its topic",
        )
    try:
        camera = heard.cameras.camera_for(heard.image.header.frame_id, *size)
    except UnusableMessage as error:
        return Check(
            "camera_info", FAIL, f"{topic}: {error}", FIXES.get(error.reason, "mend the calibration")
        )
    return Check(
        "camera_info", OK, f"{topic}: {size[0]}x{size[1]}, {camera.model}, f {camera.K[0, 0]:.1f} px"
    )


FIXES = {
    "frame_id": "set frame_id in the driver",
    "camera_info_frame": "--camera-info of the same camera",
    "camera_info_size": "a calibration of this resolution (the driver's camera_info_url)",
    "uncalibrated": "calibrate the camera (camera_calibration) and set the driver's camera_info_url",
    "binning": "switch binning and regions of interest off",
}


def check_rectified(topic: str, info: CameraInfo) -> Check:
    """Whether the image's name and its calibration both say raw, or both rectified."""
    named, distorted = bool(RECTIFIED.search(topic)), any(info.d)
    if named and distorted:
        text = f"{topic}: its name says rectified; wanted an empty D, found {list(info.d)}"
        return Check(
            "rectified", FAIL, text, "the raw image's topic, or a camera_info with K from P and empty D"
        )
    if named and info.p[0] and abs(info.p[0] - info.k[0]) > 1e-3 * info.k[0]:
        text = f"{topic}: rectified; wanted K from P ({info.p[0]:.2f}), found K[0] = {info.k[0]:.2f}"
        return Check(
            "rectified", FAIL, text, "the raw image's topic, or a camera_info with K from P and empty D"
        )
    if not named and not distorted:
        text = f"{topic}: wanted a raw image's D, found none"
        return Check(
            "rectified", WARN, text, "nothing if the camera is simulated or its lens has no distortion"
        )
    return Check("rectified", OK, "rectified, empty D" if named else f"raw, D of {len(info.d)} values")


def check_frame_name(frame_id: str) -> Check:
    """Whether the images are of an optical frame, as far as its name says."""
    if "optical" in frame_id:
        return Check("frame", OK, f"{frame_id!r}")
    text = f"wanted an optical frame's name (x right, y down, z forward; REP 103), found {frame_id!r}"
    return Check("frame", WARN, text, "the driver's frame_id; nothing if z does point forward")


def check_tf(heard: Listener, output_frame: str) -> Check:
    """Whether TF connects the camera to ``output_frame`` at the images' stamps."""
    assert heard.image is not None, "images came"
    frame_id = heard.image.header.frame_id
    # TF was discovered after the first images, and that of the last may be on its way.
    stamps = [one.stamp for one in heard.arrived][len(heard.arrived) // 2 :]
    stamps = stamps[: max(1, len(stamps) - 5)]
    missing = []
    for stamp in stamps:
        try:
            heard.frames.lookup(output_frame, frame_id, stamp)
        except UnusableMessage as error:
            missing.append(str(error))
    fix = "publish the camera's mounting (static_transform_publisher); or another --output-frame"
    if len(missing) == len(stamps):
        return Check("tf", FAIL, missing[-1], fix)
    if missing:
        text = f"wanted TF at all stamps, found it missing at {len(missing)} of {len(stamps)}: {missing[-1]}"
        return Check("tf", WARN, text, "publish TF at the images' rate or faster")
    if heard.tf_fault:
        return Check("tf", WARN, heard.tf_fault, "mend the publisher of that transform")
    return Check("tf", OK, f"{frame_id!r} in {output_frame!r} at {len(stamps)} stamps")


def check_bundle(name: str) -> Check:
    """Whether the bundle is whole, and its network says here what it said at export."""
    import onnxruntime

    start = time.monotonic()
    try:
        estimator = open_estimator(find_bundle(name))
    except Exception as error:  # of ONNX Runtime, the manifest, the disk: no common base class
        return Check("bundle", FAIL, str(error), "export or copy the bundle again (docs/bundle.md)")
    versions = f"onnxruntime {onnxruntime.__version__}, OpenCV {cv2.__version__}, NumPy {np.__version__}"
    taken = f"{time.monotonic() - start:.1f} s"
    text = f"{estimator.bundle.manifest.name}: files verified, golden sample replayed in {taken} ({versions})"
    return Check("bundle", OK, text)


def check_shared_memory(image_bytes: int) -> Check:
    """Whether an image fits the shared memory that Fast DDS is told to use in this environment."""
    name, path = next(((name, os.environ[name]) for name in PROFILES if os.environ.get(name)), ("", ""))
    segment = DEFAULT_SEGMENT
    if path:
        try:
            given = re.findall(r"<segment_size>\s*(\d+)\s*</segment_size>", Path(path).read_text("utf-8"))
        except (OSError, ValueError) as error:
            return Check(
                "shared_memory", FAIL, f"{name}: wanted a profile, found {error}", "mend the variable"
            )
        segment = max(map(int, given), default=DEFAULT_SEGMENT)
    text = f"image of {image_bytes / 1e6:.2f} MB, segment of {segment / 1e6:.2f} MB"
    if 2 * image_bytes > segment:
        fix = (
            "FASTDDS_DEFAULT_PROFILES_FILE with a larger segment, for the camera and the node (docs/node.md)"
        )
        return Check("shared_memory", WARN, f"wanted room for two images, found an {text}", fix)
    return Check("shared_memory", OK, text)


def positive(text: str) -> float:
    """Read a number of seconds from the command line."""
    value = float(text)
    if not 0 < value <= MOST_S:
        raise argparse.ArgumentTypeError(f"wanted more than 0, {MOST_S:g} at most, found {text}")
    return value


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="doctor", description=__doc__.splitlines()[0])
    made.add_argument("--image", default="image", help="topic of the images")
    made.add_argument("--camera-info", default="camera_info", help="topic of their CameraInfo")
    made.add_argument("--bundle", default="", help="bundle to try, a folder or an installed one's name")
    made.add_argument("--output-frame", default="", help="frame that poses are wanted in")
    made.add_argument("--seconds", type=positive, default=5.0, help="how long to listen")
    return made


def main(args: list[str] | None = None) -> int:
    """Command-line entry. Returns 1 where a check failed."""
    argv = sys.argv if args is None else ["doctor", *args]
    given = parser().parse_args(remove_ros_args(argv)[1:])
    rclpy.init(args=argv, signal_handler_options=SignalHandlerOptions.NO)  # Ctrl-C stays Python's
    node = rclpy.create_node("pose_doctor")
    failed = False
    try:
        heard = Listener(node, given.image, given.camera_info, given.seconds)
        heard.listen()
        for check in examine(heard, given.bundle, given.output_frame):
            print(check, flush=True)
            failed = failed or check.level == FAIL
    except KeyboardInterrupt:
        print("interrupted: some checks were not made", file=sys.stderr)
        failed = True
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
