# SPDX-License-Identifier: Apache-2.0
"""Bag player: publishes a recording at its own pace, as the serialized bytes that were recorded.

ros2 run pose_kd_ros play recording --loop ros2 run pose_kd_ros play recording --rate 0.5 --clock 100 ros2 run
pose_kd_ros play recording --restamp     (header stamps become the time of playing)

The pace is kept against one monotonic clock: lateness of a message never shifts those after it.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import rclpy
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args
from rosgraph_msgs.msg import Clock

from pose_kd_ros.recordings.bags import Bag, BagError, RawMessage, Topic, open_bag, read_stamp, with_stamp

NANO = 1_000_000_000
ACK_SECONDS = 1.0  # how long the last reliable messages get to arrive before the player leaves


@dataclass(frozen=True)
class PlayOptions:
    """How to play.

    rate: bag seconds per second. clock_hz: 0 publishes no /clock. wait: seconds for subscribers.
    """

    rate: float = 1.0
    loop: bool = False
    clock_hz: float = 0.0
    restamp: bool = False
    wait: float = 0.0
    topics: tuple[str, ...] = ()

    def __post_init__(self):
        if not self.rate > 0:
            raise ValueError(f"rate: wanted more than 0, found {self.rate}")
        if self.clock_hz < 0 or self.wait < 0:
            raise ValueError(f"clock and wait: wanted 0 or more, found {self.clock_hz} and {self.wait}")
        if self.restamp and self.clock_hz:
            raise ValueError(
                "restamp and clock exclude each other: stamps follow either this machine's time or the bag's"
            )


@dataclass
class Report:
    """What was played. late: the longest time in seconds that a message went out after it was due."""

    messages: int = 0
    loops: int = 0
    late: float = 0.0


class Timeline:
    """Map bag time to this machine's time for one pass.

    start: bag nanoseconds of the pass's first moment.
    """

    def __init__(self, start: int, rate: float):
        self.start, self.rate = start, rate
        self.monotonic = time.monotonic()
        self.wall = time.time_ns()
        self._shift: int | None = None

    def due(self, stamp: int) -> float:
        """Return the monotonic time, in seconds, at which a message recorded at `stamp` is due."""
        return self.monotonic + (stamp - self.start) / NANO / self.rate

    def bag_time(self) -> int:
        """Return the bag time of this moment, in nanoseconds."""
        return self.start + int((time.monotonic() - self.monotonic) * self.rate * NANO)

    def restamped(self, message: RawMessage) -> bytes:
        """Return the message with its header moved to the present; equal stamps stay equal."""
        header = read_stamp(message.data)
        if self._shift is None:  # the first message is stamped with the moment it is due
            self._shift = self.wall + int((message.stamp - self.start) / self.rate) - int(header / self.rate)
        return with_stamp(message.data, int(header / self.rate) + self._shift)


class Player:
    """Play one open bag through a node's publishers until it ends or `stop` is set."""

    def __init__(self, node: Node, bag: Bag, options: PlayOptions, stop: threading.Event):
        self.node, self.bag, self.options, self.stop = node, bag, options, stop
        self.report = Report()
        self.publishers: dict[str, Publisher] = {}
        self.stamped: set[str] = set()
        for topic in bag.pick(options.topics):
            self._advertise(topic)
        self.clock = node.create_publisher(Clock, "/clock", 10) if options.clock_hz else None
        self._next_tick = 0.0

    def _advertise(self, topic: Topic) -> None:
        try:
            cls: Any = message_class(topic.type)
        except (ImportError, AttributeError):
            self.node.get_logger().warning(f"{topic.name} is not played: {topic.type} is not installed")
            return
        self.publishers[topic.name] = self.node.create_publisher(cls, topic.name, qos_profile(topic))
        if next(iter(cls.get_fields_and_field_types().items()), None) == ("header", "std_msgs/Header"):
            self.stamped.add(topic.name)

    def play(self) -> Report:
        """Play to the end, or for ever with loop. Returns what was played."""
        self._wait_for_subscribers()
        while not self.stop.is_set() and self.publishers:
            self._pass()
            self.report.loops += 1
            if not self.options.loop:
                break
        for publisher in self.publishers.values():
            if not self.stop.is_set():
                publisher.wait_for_all_acked(Duration(seconds=ACK_SECONDS))
        return self.report

    def _wait_for_subscribers(self) -> None:
        deadline = time.monotonic() + self.options.wait
        while alone := [name for name, one in self.publishers.items() if not one.get_subscription_count()]:
            if time.monotonic() >= deadline or self.stop.wait(0.02):
                break
        if alone and self.options.wait:
            self.node.get_logger().warning(f"no subscriber of {', '.join(alone)}; playing anyway")

    def _pass(self) -> None:
        timeline = Timeline(self.bag.start, self.options.rate)
        self._next_tick = time.monotonic()
        for message in self.bag.messages(list(self.publishers)):
            if not self._sleep_until(timeline.due(message.stamp), timeline):
                return
            self._publish(message, timeline)
        self._sleep_until(timeline.due(self.bag.end), timeline)

    def _publish(self, message: RawMessage, timeline: Timeline) -> None:
        if self.clock:  # first, so that no message is from the future
            self._publish_clock(self.clock, message.stamp)
        restamp = self.options.restamp and message.topic in self.stamped
        self.publishers[message.topic].publish(timeline.restamped(message) if restamp else message.data)
        self.report.messages += 1
        self.report.late = max(self.report.late, time.monotonic() - timeline.due(message.stamp))

    def _sleep_until(self, due: float, timeline: Timeline) -> bool:
        """Sleep and publish /clock meanwhile. Return False if the player shall stop."""
        while (now := time.monotonic()) < due and not self.stop.is_set():
            if self.clock and now >= self._next_tick:
                self._publish_clock(self.clock, timeline.bag_time())
                self._next_tick = now + 1 / self.options.clock_hz
            until = min(due, self._next_tick) if self.clock else due
            self.stop.wait(max(0.0, until - time.monotonic()))
        return not self.stop.is_set()

    def _publish_clock(self, clock: Publisher, bag_time: int) -> None:
        message = Clock()
        message.clock.sec, message.clock.nanosec = divmod(bag_time, NANO)
        clock.publish(message)


def message_class(name: str) -> type:
    """name: such as sensor_msgs/msg/Image. Raises ImportError or AttributeError when it is not installed."""
    package, _, message = name.split("/")
    return getattr(importlib.import_module(f"{package}.msg"), message)


def qos_profile(topic: Topic) -> QoSProfile:
    """Return the recorded QoS, or reliable, volatile, depth 10 where the bag says nothing usable."""
    recorded = dict(topic.qos)
    best_effort = recorded.get("reliability") == "best_effort"
    latched = recorded.get("durability") == "transient_local"
    return QoSProfile(
        history=HistoryPolicy.KEEP_ALL if recorded.get("history") == "keep_all" else HistoryPolicy.KEEP_LAST,
        depth=min(max(1, int(recorded.get("depth", 10))), 1000),
        reliability=ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


def parse(arguments: list[str]) -> tuple[str, PlayOptions]:
    """Return the bag's path and the options of a command line without its ROS arguments."""
    parser = argparse.ArgumentParser(prog="play", description="Plays a rosbag2 recording (sqlite3 or MCAP).")
    parser.add_argument("bag", help="folder, .mcap or .db3 file")
    parser.add_argument("--rate", type=float, default=1.0, help="bag seconds per second (default: 1)")
    parser.add_argument("--loop", action="store_true", help="start again at the end, until Ctrl-C")
    parser.add_argument("--clock", type=float, default=0.0, metavar="HZ", help="publish /clock this often")
    parser.add_argument("--restamp", action="store_true", help="move header stamps to the time of playing")
    parser.add_argument(
        "--wait", type=float, default=0.0, metavar="S", help="wait up to S seconds for subscribers"
    )
    parser.add_argument("--topics", nargs="+", default=(), help="play only these")
    given = parser.parse_args(arguments)
    try:
        options = PlayOptions(
            given.rate, given.loop, given.clock, given.restamp, given.wait, tuple(given.topics)
        )
    except ValueError as error:
        parser.error(str(error))
    return given.bag, options


def stop_on_signals(stop: threading.Event) -> Callable[[], None]:
    """Set `stop` on Ctrl-C and SIGTERM. Returns what puts the previous handlers back."""
    names = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(name, lambda *_: stop.set()) for name in names]

    def put_back() -> None:
        for name, handler in zip(names, before):
            signal.signal(name, handler)

    return put_back


def main(args: list[str] | None = None) -> int:
    """Command-line entry. Returns 0, or 1 when the recording cannot be read."""
    path, options = parse(remove_ros_args(sys.argv if args is None else ["play", *args])[1:])
    stop = threading.Event()
    restore = stop_on_signals(stop)
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("play")
    try:
        with open_bag(path) as bag:
            report = Player(node, bag, options, stop).play()
        played = f"played {report.messages} messages in {report.loops} passes"
        node.get_logger().info(f"{played}, at most {report.late * 1e3:.1f} ms late")
    except (BagError, ImportError) as error:
        node.get_logger().error(str(error))
        return 1
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
        restore()
    return 0


if __name__ == "__main__":
    sys.exit(main())
