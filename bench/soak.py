# SPDX-License-Identifier: Apache-2.0
"""Soak test of the pose node: minutes or hours at camera rate, with disturbances at random.

    python -m bench.soak bundles/cube [--minutes 60] [--recording BAG] [--other bundles/lmo] [--out FILE]

The node runs in a separate process, under simulated time. Calm seconds and disturbances take turns: cameras
and subscribers that go and return, recordings that loop, jumps of the clock, hostile images and calibrations,
other bundles, lifecycle transitions, services. After each the node must work again within RECOVER_S. Exits
with 1 if it did not, if frames are unaccounted for, or if memory, threads or open files grew.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.client import Client
from rclpy.node import Node
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from rclpy.time import Time
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection3DArray

from pose_kd_ros.core.sensor_messages import to_seconds

from .live import node_process, painted, recorded
from .rows import common

CALM_S = (3.0, 10.0)  # between two disturbances
RECOVER_S = 15.0  # after a disturbance a frame must be processed within so many seconds
ANSWER_S = 30.0  # longest wait for a service: another bundle is loaded and its golden sample replayed
UNDER_WAY = 8  # frames that may be sent, but not counted yet, when a status is written
GROWTH_MB_H, MORE_THREADS, MORE_FILES = 20.0, 4, 10
SETTLED = 0.2  # share of the time after which memory must no longer grow
COUNTS = ("frames_processed", "dropped", "unwatched")

Ticks = Iterator[None]


def to_time(seconds: float):
    """Return the message of a time."""
    return Time(nanoseconds=round(1e9 * seconds)).to_msg()


def resources(pid: int) -> tuple[float, int, int]:
    """Return a process's memory in MB (without mapped files and shared memory), threads and open files."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    values = dict(line.split(":", 1) for line in lines)
    files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return float(values["RssAnon"].split()[0]) / 1024, int(values["Threads"]), files


class Driver(Node):
    """Camera, clock and subscribers of the node under test. ``tick`` is one period of the camera."""

    def __init__(self, frames: list[tuple[Image, CameraInfo]], rate: float, bundles: list[str], seed: int):
        super().__init__("soak")
        self.frames, self.rate, self.bundles = frames, rate, bundles
        self.random = random.Random(seed)
        self.now, self.index, self.due = 1000.0, 0, time.monotonic()
        self.sent: deque[float] = deque(maxlen=4000)  # stamps of good images
        self.sent_total = 0
        self.status: deque[dict] = deque(maxlen=4000)  # of this calm
        self.epochs: list[dict[str, int]] = [{}]  # counts of each activation
        self.unbalanced = 0  # most frames received, but neither processed nor counted as anything else
        self.problems: list[str] = []
        self.time = self.create_publisher(Clock, "/clock", 10)
        self.open_camera()
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self.listen_again()
        self.clients_of_node: dict[str, Client] = {
            name: self.create_client(kind, f"/pose_node/{name}")
            for name, kind in {
                "enable": SetBool,
                "reset": Trigger,
                "detect": Trigger,
                "set_parameters": SetParameters,
                "change_state": ChangeState,
            }.items()
        }

    def open_camera(self) -> None:
        self.images = self.create_publisher(Image, "image", qos_profile_sensor_data)
        self.infos = self.create_publisher(CameraInfo, "camera_info", qos_profile_sensor_data)

    def close_camera(self) -> None:
        self.destroy_publisher(self.images)
        self.destroy_publisher(self.infos)

    def listen_again(self) -> None:
        topics = {"/tf": TFMessage, "/pose_node/detections": Detection3DArray}
        self.ears = [self.create_subscription(k, t, lambda message: None, 10) for t, k in topics.items()]
        self.ears.append(
            self.create_subscription(String, "/pose_node/status", self._on_status, QoSProfile(depth=100))
        )

    def stop_listening(self) -> None:
        for ear in self.ears:
            self.destroy_subscription(ear)

    def _on_status(self, message: String) -> None:
        status = json.loads(message.data)
        self.status.append(status)
        self._account(status)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if "pose_node" in status.name:
                self._account({value.key: value.value for value in status.values})

    def _account(self, values: dict) -> None:
        """Keep the newest counts of each activation and check that they add up."""
        counts = {
            name: int(values[name])
            for name in values
            if name in ("frames_received", "lost", *COUNTS) or name.startswith("refused_")
        }
        if "frames_received" not in counts:
            return
        if counts["frames_received"] < self.epochs[-1].get("frames_received", 0):
            self.epochs.append({})
        self.epochs[-1].update(counts)
        known = sum(n for name, n in counts.items() if name in COUNTS or name.startswith("refused_"))
        self.unbalanced = max(self.unbalanced, abs(counts["frames_received"] - known))

    def tick(self, good: bool = True) -> None:
        """Advance the clock by one period; publish the next frame if ``good``; listen."""
        self.now += 1 / self.rate
        self.time.publish(Clock(clock=to_time(self.now)))
        if good:
            image, info = self.frames[self.index % len(self.frames)]
            self.index += 1
            image.header.stamp = info.header.stamp = to_time(self.now)
            self.infos.publish(info)
            self.images.publish(image)
            self.sent.append(to_seconds(image.header.stamp))
            self.sent_total += 1
        self.due = max(self.due + 1 / self.rate, time.monotonic())
        while (left := self.due - time.monotonic()) > 0:
            rclpy.spin_once(self, timeout_sec=left)

    def pause(self, seconds: float, good: bool = True) -> Ticks:
        for _ in range(round(seconds * self.rate)):
            self.tick(good)
            yield

    def call(self, name: str, request) -> Ticks:
        """Ask a service while frames go on. Its answer is in ``answer``, None if none came in time."""
        self.answer = None
        client, end = self.clients_of_node[name], time.monotonic() + ANSWER_S
        future = client.call_async(request)
        while not future.done() and time.monotonic() < end:
            self.tick()
            yield
        if future.done():
            self.answer = future.result()
        else:
            client.remove_pending_request(future)
            self.problems.append(f"{name}: no answer within {ANSWER_S:g} s")


def camera_leaves(driver: Driver) -> Ticks:
    driver.close_camera()
    yield from driver.pause(driver.random.uniform(0.2, 6.0), good=False)
    driver.open_camera()


def second_camera(driver: Driver) -> Ticks:
    other = driver.create_publisher(Image, "image", qos_profile_sensor_data)
    for _ in driver.pause(2.0):
        image = driver.frames[0][0]
        other.publish(image)  # with the stamp of a frame before: late
        yield
    driver.destroy_publisher(other)


def subscribers_leave(driver: Driver) -> Ticks:
    driver.stop_listening()
    yield from driver.pause(driver.random.uniform(0.5, 5.0))
    driver.listen_again()


def recording_loops(driver: Driver) -> Ticks:
    """Stamps and clock go back to the start."""
    driver.now, driver.index = driver.now - driver.random.uniform(2.0, 60.0), 0
    driver.tick()
    yield


def clock_jumps_ahead(driver: Driver) -> Ticks:
    driver.now += driver.random.uniform(5.0, 5000.0)
    driver.tick()
    yield


def stamps_stand_still(driver: Driver) -> Ticks:
    """A camera that sends each image twice, and some late."""
    for _ in range(20):
        image, _ = driver.frames[driver.index % len(driver.frames)]
        image.header.stamp = to_time(driver.now - driver.random.choice((0.0, 0.0, 0.5)))
        driver.images.publish(image)
        driver.tick()
        yield


def hostile_images(driver: Driver) -> Ticks:
    for _ in range(driver.random.randint(1, 30)):
        good, _ = driver.frames[0]
        bad = Image(header=good.header, height=good.height, width=good.width, step=good.step)
        bad.header.stamp = to_time(driver.now + 0.01)
        bad.encoding, bad.data, bad.header.frame_id = good.encoding, good.data, good.header.frame_id
        for name, value in driver.random.choice(HOSTILE).items():
            target = bad.header if name == "frame_id" else bad
            setattr(target, name, value)
        driver.images.publish(bad)
        bad.header.frame_id = good.header.frame_id
        driver.now += 0.02
        driver.tick()
        yield


HOSTILE: list[dict] = [
    {"encoding": "16UC1"},
    {"encoding": "bayer_xyzw8"},
    {"encoding": "\x00" * 300},
    {"data": b""},
    {"data": b"\x00" * 1000},
    {"width": 65000, "height": 65000},
    {"step": 1},
    {"step": 2**32 - 1},
    {"width": 0},
    {"frame_id": ""},
    {"frame_id": "another_camera"},
]


def hostile_calibration(driver: Driver) -> Ticks:
    good = driver.frames[0][1]
    for _ in range(driver.random.randint(1, 20)):
        bad = CameraInfo(header=good.header, width=good.width, height=good.height, k=good.k.copy())
        bad.distortion_model, bad.d = "plumb_bob", [0.0] * 5
        kind = driver.random.randrange(5)
        if kind == 0:
            bad.k[0] = driver.random.choice((0.0, -1.0, float("nan"), float("inf"), 1e300))
        elif kind == 1:
            bad.width = driver.random.choice((0, 1, 2**32 - 1))
        elif kind == 2:
            bad.distortion_model = driver.random.choice(("", "nonsense"))
            bad.d = [1.0]
        elif kind == 3:
            bad.d = [float("nan")] * 5
        else:
            bad.d = [driver.random.uniform(-1e6, 1e6) for _ in range(5)]
        driver.infos.publish(bad)
        driver.tick(good=False)
        yield
        image, _ = driver.frames[0]
        image.header.stamp = to_time(driver.now)
        driver.images.publish(image)
        driver.tick(good=False)
        yield


def set_bundle(driver: Driver, path: str, accepted: bool) -> Ticks:
    value = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=path)
    request = SetParameters.Request(parameters=[Parameter(name="bundle", value=value)])
    yield from driver.call("set_parameters", request)
    if driver.answer and driver.answer.results[0].successful != accepted:
        driver.problems.append(f"bundle {path}: wanted {accepted}, found {driver.answer.results[0].reason}")


def other_bundle(driver: Driver) -> Ticks:
    for path in (*driver.bundles[1:], driver.bundles[0]):
        yield from set_bundle(driver, path, True)
        yield from driver.pause(1.0)


def broken_bundle(driver: Driver) -> Ticks:
    yield from set_bundle(driver, "/nowhere/at/all", False)


def disabled(driver: Driver) -> Ticks:
    yield from driver.call("enable", SetBool.Request(data=False))
    yield from driver.pause(driver.random.uniform(0.2, 3.0))
    yield from driver.call("enable", SetBool.Request(data=True))


def tracks_forgotten(driver: Driver) -> Ticks:
    yield from driver.call("reset", Trigger.Request())


def detect(driver: Driver) -> Ticks:
    yield from driver.call("detect", Trigger.Request())


def lifecycle(driver: Driver) -> Ticks:
    """Deactivate and activate; in one of two cases clean up and configure between them."""
    steps = [Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVATE]
    if driver.random.random() < 0.5:
        steps[1:1] = [Transition.TRANSITION_CLEANUP, Transition.TRANSITION_CONFIGURE]
    for step in steps:
        yield from driver.call("change_state", ChangeState.Request(transition=Transition(id=step)))
        if driver.answer and not driver.answer.success:
            driver.problems.append(f"lifecycle transition {step}: refused")
        yield from driver.pause(driver.random.uniform(0.0, 1.0))


DISTURBANCES: list[Callable[[Driver], Ticks]] = [
    camera_leaves,
    second_camera,
    subscribers_leave,
    recording_loops,
    clock_jumps_ahead,
    stamps_stand_still,
    hostile_images,
    hostile_calibration,
    other_bundle,
    broken_bundle,
    disabled,
    tracks_forgotten,
    detect,
    lifecycle,
]


def calm(
    driver: Driver, wants_objects: bool, lasting: tuple[float, float] = CALM_S
) -> tuple[float | None, int]:
    """Let the node work in peace. Return the seconds until it did, or None, and frames unaccounted for."""
    driver.status.clear()
    driver.sent.clear()  # stamps may have gone back
    start, recovered = time.monotonic(), None
    end = start + driver.random.uniform(*lasting)
    while time.monotonic() < end or (recovered is None and time.monotonic() < start + RECOVER_S):
        driver.tick()
        if recovered is None and any(
            s["stamp"] in driver.sent and (s["tracks"] or not wants_objects) for s in driver.status
        ):
            recovered = time.monotonic() - start
            driver.status.clear()  # counts from here on: topics have found each other again
    if len(driver.status) < 2:
        return recovered, 0
    first, last = driver.status[0], driver.status[-1]
    sent = sum(first["stamp"] < stamp <= last["stamp"] for stamp in driver.sent)
    counted = sum(last[name] - first[name] for name in ("frames_received", "lost"))
    return recovered, abs(sent - counted)


def soak(driver: Driver, pid: int, minutes: float, wants_objects: bool, lasting=CALM_S) -> dict:
    """Run for so many minutes; return what was measured. lasting: shortest and longest calm, seconds."""
    recovery: dict[str, list[float]] = defaultdict(list)
    missed: Counter[str] = Counter()
    memory: list[tuple[float, float, int, int]] = []
    unaccounted = 0
    calm(driver, wants_objects, lasting)
    start = time.monotonic()
    queue: list[Callable[[Driver], Ticks]] = []
    while time.monotonic() < start + 60 * minutes:
        if not queue:  # all once in each round, in random order
            queue = driver.random.sample(DISTURBANCES, len(DISTURBANCES))
        disturbance = queue.pop()
        for _ in disturbance(driver):
            pass
        seconds, left = calm(driver, wants_objects, lasting)
        if seconds is None:
            missed[disturbance.__name__] += 1
            driver.problems.append(f"{disturbance.__name__}: not at work again within {RECOVER_S:g} s")
        else:
            recovery[disturbance.__name__].append(seconds)
        unaccounted = max(unaccounted, left)
        hours = (time.monotonic() - start) / 3600
        mb, threads, files = resources(pid)
        memory.append((hours, mb, threads, files))
        took = "not at work" if seconds is None else f"{seconds:.2f} s"
        print(
            f"{60 * hours:6.1f} min  {disturbance.__name__}: {took}, {mb:.1f} MB, {threads} threads, "
            f"{files} files, {left} frames unaccounted for, {len(driver.problems)} problems",
            flush=True,
        )
    return figures(driver, recovery, missed, np.array(memory), unaccounted)


def figures(driver: Driver, recovery, missed: Counter, memory: np.ndarray, unaccounted: int) -> dict:
    """Sum a run up. memory: rows of (hours, MB, threads, files)."""
    settled = memory[len(DISTURBANCES) :]  # what each needs once, as a second bundle, is no leak
    settled = settled[settled[:, 0] > SETTLED * memory[-1, 0]]
    slope = float(np.polyfit(settled[:, 0], settled[:, 1], 1)[0]) if len(settled) > 2 else 0.0
    totals: Counter[str] = Counter()
    for epoch in driver.epochs:
        totals.update(epoch)
    return {
        "minutes": round(60 * float(memory[-1, 0]), 1),
        "rate_hz": driver.rate,
        "frames_sent": driver.sent_total,
        **dict(sorted(totals.items())),
        "disturbances": {name: len(values) for name, values in sorted(recovery.items())},
        "recovery_s_max": {name: round(max(values), 2) for name, values in sorted(recovery.items())},
        "missed_recoveries": dict(missed),
        "frames_received_and_not_counted_most": driver.unbalanced,
        "frames_sent_and_not_counted_most": unaccounted,
        "memory_mb": [round(float(memory[k, 1]), 1) for k in (0, -1)],
        "memory_slope_mb_h": round(slope, 2),
        "threads": [int(memory[k, 2]) for k in (0, -1)],
        "open_files": [int(memory[k, 3]) for k in (0, -1)],
        "problems": driver.problems,
    }


def faults(found: dict, exit_code: int) -> list[str]:
    """Say what is wrong, one sentence each."""
    wrong = list(found["problems"])
    if (
        found["memory_slope_mb_h"] > GROWTH_MB_H
        and found["memory_mb"][1] > found["memory_mb"][0] + GROWTH_MB_H
    ):
        wrong.append(f"memory: wanted at most {GROWTH_MB_H:g} MB/h, found {found['memory_slope_mb_h']}")
    for name, more in (("threads", MORE_THREADS), ("open_files", MORE_FILES)):
        before, after = found[name]
        if after > before + more:
            wrong.append(f"{name}: wanted at most {before + more}, found {after}")
    for name in ("frames_received_and_not_counted_most", "frames_sent_and_not_counted_most"):
        if found[name] > UNDER_WAY:
            wrong.append(f"{name}: wanted at most {UNDER_WAY}, found {found[name]}")
    if exit_code:
        wrong.append(f"exit code after SIGINT: wanted 0, found {exit_code}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=30.0, help="frames a second")
    parser.add_argument(
        "--recording", type=Path, help="its frames in place of painted ones; shows the object"
    )
    parser.add_argument("--other", action="append", default=[], help="bundle to swap to; may be repeated")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    frames = recorded(options.recording, 200) if options.recording else painted(200, 320, 240)
    bundles = [str(Path(path).resolve()) for path in (options.bundle, *options.other)]
    with node_process(bundles[0], "threads:=1", "use_sim_time:=true") as process:
        driver = Driver(frames, options.rate, bundles, options.seed)
        found = soak(driver, process.pid, options.minutes, options.recording is not None)
        process.send_signal(signal.SIGINT)
        wrong = faults(found, process.wait(20))
    print(json.dumps(found, indent=1))
    if options.out:
        about = common("soak", "node", "", str(options.recording or "painted"), "live", seed=options.seed)
        options.out.write_text(json.dumps([about | found], indent=1) + "\n", encoding="utf-8")
    print(*wrong, sep="\n", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
