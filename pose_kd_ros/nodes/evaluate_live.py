# SPDX-License-Identifier: Apache-2.0
"""The real node on a recording, over DDS: what of it arrives, and when.

    ros2 run pose_kd_ros evaluate_live BAG --bundle cube

Starts another pose_node, plays the recording to it at its pace, stamped with the present, and
listens to what it publishes, as a robot would. ``evaluate`` measures how right the poses are,
picture by picture; this measures what a machine makes of them in time: pictures that are dropped,
and how old a pose is when it arrives.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args
from std_msgs.msg import String
from vision_msgs.msg import Detection3DArray

from ..core.sensor_messages import to_seconds
from ..evaluation.console import OK, REFUSED, STOPPED
from ..provenance import environment, write_whole
from ..recordings.bags import Bag, BagError, open_bag
from ..recordings.images import COMPRESSED, BagImages
from .play import Player, PlayOptions, stop_on_signals

POSE_NODE = "evaluated_pose_node"
START_SECONDS, LAST_SECONDS = 60.0, 2.0  # to become active; for the answers to the last pictures
LISTEN = QoSProfile(depth=1000)


class Died(RuntimeError):
    """The node under test ended, or did not become active."""


@dataclass
class Received:
    """What arrived. statuses: the node's own, one for each picture that it processed. ages_ms: of detections
    when they came, since their pictures' stamps. found: detections with an object among them."""

    statuses: list[dict] = field(default_factory=list)
    ages_ms: list[float] = field(default_factory=list)
    found: int = 0

    def figures(self, sent: int, late_ms: float) -> dict[str, float]:
        """Fractions in 0..1, milliseconds. sent: pictures that were played; late_ms: the player's worst."""
        processed = len(self.statuses)
        figures = {
            "images": sent,
            "processed": processed / sent if sent else float("nan"),
            "found_rate": self.found / processed if processed else float("nan"),
            "player_late_ms": late_ms,
        }
        figures |= percentiles("age", self.ages_ms)
        figures |= percentiles("node", [s["stages_ms"]["total"] for s in self.statuses])
        if self.statuses:
            kept = ("dropped", "refused")
            figures |= {k: float(v) for k, v in self.statuses[-1].items() if k.startswith(kept)}
        return {name: float(f"{value:.6g}") for name, value in figures.items()}


def percentiles(name: str, values_ms: Sequence[float]) -> dict[str, float]:
    """``name_p50_ms`` and so on; nothing of nothing."""
    shares = (50, 95, 99) if len(values_ms) else ()
    return {f"{name}_p{share}_ms": float(np.percentile(values_ms, share)) for share in shares}


class Listener(Node):
    """Listens to the node under test."""

    def __init__(self):
        super().__init__("evaluate_live")
        self.received, self.fault = Received(), ""  # fault: why the node could not start, in its own words
        self.create_subscription(String, f"/{POSE_NODE}/status", self._on_status, LISTEN)
        self.create_subscription(Detection3DArray, f"/{POSE_NODE}/detections", self._on_detections, LISTEN)

        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, LISTEN)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name.startswith(f"{POSE_NODE}:") and status.message.startswith("cannot "):
                self.fault = status.message

    def _on_status(self, message: String) -> None:
        self.received.statuses.append(json.loads(message.data))

    def _on_detections(self, message: Detection3DArray) -> None:
        self.received.ages_ms.append(1e3 * (time.time() - to_seconds(message.header.stamp)))
        self.received.found += bool(message.detections)


def start_node(bundle: str, topic: str, info: str, compressed: bool, more: Sequence[str]) -> subprocess.Popen:
    """Start a pose node in another process that looks at these topics. more: NAME:=VALUE parameters."""
    image = topic[: -len("/compressed")] if compressed and topic.endswith("/compressed") else topic
    values = [f"bundle:={bundle}", f"image_transport:={'compressed' if compressed else 'raw'}", *more]
    remapped = [f"__node:={POSE_NODE}", f"image:={image}", f"camera_info:={info}"]
    remapped += [f"image/compressed:={topic}"] if compressed else []
    words = [word for value in values for word in ("-p", value)]
    words += [word for rule in remapped for word in ("-r", rule)]
    return subprocess.Popen([sys.executable, "-m", "pose_kd_ros.nodes.pose_node", "--ros-args", *words])


def wait_until_active(
    listener: Listener, process: subprocess.Popen, topic: str, stop: threading.Event
) -> None:
    """Wait until the node listens to ``topic``. Raises Died unless the node listens to ``topic`` in time."""
    deadline = time.monotonic() + START_SECONDS
    while not listener.count_subscribers(topic):
        if listener.fault or process.poll() is not None or time.monotonic() > deadline:
            raise Died(f"the node did not become active: {listener.fault or 'its log says why'}")
        if stop.wait(0.05):
            return


def info_topic(bag: Bag, images: BagImages) -> str:
    """The CameraInfo topic of the pictures' frame and size. Raises BagError."""
    first = next(images.frames(), None)
    if first is None:
        raise BagError(f"{bag.path.name}: no picture of {images.topic} can be used: {dict(images.faults)}")
    wanted = first.frame_id, first.camera.width, first.camera.height
    for name, key in images.info_keys():
        if key == wanted:
            return name
    frame_id, width, height = wanted
    raise BagError(f"{bag.path.name}: wanted a CameraInfo of {frame_id!r} and {width}x{height}, found none")


def listen(executor: SingleThreadedExecutor, failed: list[BaseException]) -> None:
    """Spin until the executor is shut down; what goes wrong is kept for the main thread."""
    try:
        executor.spin()
    except ExternalShutdownException:
        return
    except BaseException as error:
        failed.append(error)


def evaluate(args: argparse.Namespace, stop: threading.Event) -> dict[str, float]:
    """Play the recording to the node; returns the figures. Raises BagError, Died."""
    with open_bag(args.bag) as bag:
        images = BagImages(bag, args.camera)
        topic, info = images.topic, info_topic(bag, images)
        compressed = bag.topics[topic].type == COMPRESSED
        listener = Listener()
        failed: list[BaseException] = []
        executor = SingleThreadedExecutor()
        executor.add_node(listener)
        thread = threading.Thread(target=listen, args=(executor, failed), daemon=True)
        process = start_node(args.bundle, topic, info, compressed, args.p)
        try:
            thread.start()
            wait_until_active(listener, process, topic, stop)
            options = PlayOptions(rate=args.rate, restamp=True, wait=10.0, topics=(topic, info))
            report = Player(listener, bag, options, stop).play()
            settle(listener.received, bag.topics[topic].count, stop)
            if process.poll() is not None:
                raise Died(f"the node ended with exit code {process.returncode} while it was played to")
        finally:
            process.terminate()
            executor.shutdown()
            thread.join(5.0)
            end(process)
            listener.destroy_node()
        if failed:
            raise failed[0]
        return listener.received.figures(bag.topics[topic].count, 1e3 * report.late)


def settle(received: Received, count: int, stop: threading.Event) -> None:
    """Wait for what the node still works on, LAST_SECONDS at most after the last answer."""
    known, since = -1, time.monotonic()
    while len(received.statuses) < count and time.monotonic() - since < LAST_SECONDS and not stop.wait(0.05):
        if len(received.statuses) != known:
            known, since = len(received.statuses), time.monotonic()


def end(process: subprocess.Popen) -> None:
    try:
        process.wait(20.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(5.0)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="evaluate_live", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("bag", type=Path, metavar="BAG", help="rosbag2 folder, .mcap or .db3 file")
    made.add_argument("--bundle", required=True, metavar="B", help="folder or name")
    made.add_argument("--camera", metavar="TOPIC", help="image topic, where several were recorded")
    made.add_argument("--rate", type=float, default=1.0, help="bag seconds per second (default: 1)")
    made.add_argument("-p", action="append", default=[], metavar="NAME:=VALUE", help="parameter of the node")
    made.add_argument("--out", type=Path, metavar="FILE", help="write figures and machine as JSON")
    return made


def main(args: list[str] | None = None) -> int:
    """Command-line entry; returns the exit code."""
    given = parser().parse_args(remove_ros_args(sys.argv if args is None else ["evaluate_live", *args])[1:])
    stop = threading.Event()
    restore = stop_on_signals(stop)
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    try:
        figures = evaluate(given, stop)
    except (BagError, Died, ImportError, ValueError) as error:
        print(f"evaluate_live: {error}", file=sys.stderr)
        return REFUSED
    finally:
        rclpy.try_shutdown()
        restore()
    if stop.is_set():
        print("stopped: no figures of a part", file=sys.stderr)
        return STOPPED
    width = max(map(len, figures))
    print("\n".join(f"{name:{width}s}  {value:g}" for name, value in figures.items()))
    if given.out:
        content = {"source": given.bag.resolve().name, "rate": given.rate, "figures": figures}
        write_whole(given.out, json.dumps(content | {"environment": environment()}, indent=1) + "\n")
    return OK


if __name__ == "__main__":
    sys.exit(main())
