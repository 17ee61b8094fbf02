# SPDX-License-Identifier: Apache-2.0
"""./demo: plays a recording in real time over DDS to the pose node and shows the detections.

Afterwards demo_out/ holds overlay pictures, a video and summary.json.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

# A separate domain, so that no other node on this network is received; set before rclpy is imported.
os.environ.setdefault("ROS_DOMAIN_ID", str(random.randint(1, 101)))

import rclpy
from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState
from rclpy.client import Client
from rclpy.node import Node

from pose_kd_ros.core.sensor_messages import UnusableMessage
from pose_kd_ros.recordings.bags import BagError, open_bag, read_stamp
from standalone.bag_writer import IMAGE_TOPIC, INFO_TOPIC
from standalone.demo.listener import Listener
from standalone.demo.pictures import write_pictures
from standalone.demo.processes import Failed, running, tail
from standalone.demo.records import Records, summarise
from standalone.demo.table import LiveTable
from standalone.layout import ROOT
from standalone.recording import Recording, get_recording, make_synthetic

RECORDINGS = ROOT / ".state" / "recordings"
START_SECONDS = 120.0  # for the node to load its bundle and become active
WAIT_SECONDS = 10.0  # that the player waits for the node to listen
GRACE_SECONDS = 60.0  # beyond the recording's length, after which a player that does not end is an error
SILENCE_SECONDS = 3.0  # without a message after the player's end; then no more are expected


def choose_recording(wanted: str) -> Recording:
    """wanted: real, synthetic or a bag's path."""
    if wanted == "synthetic":
        return Recording(make_synthetic(RECORDINGS / "synthetic_cube"), "synthetic")
    return get_recording(RECORDINGS) if wanted == "real" else Recording(Path(wanted), "own")


def wait_until_active(node: Node, process: subprocess.Popen, log: Path) -> None:
    """Waits until the pose node is active.

    Raises:
        Failed: it died, or was not active in START_SECONDS.
    """
    client: Client = node.create_client(GetState, "/pose_node/get_state")
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if not client.wait_for_service(timeout_sec=0.2):
            continue
        asked = client.call_async(GetState.Request())
        rclpy.spin_until_future_complete(node, asked, timeout_sec=10.0)
        answer = asked.result() if asked.done() else None
        if answer is not None and answer.current_state.id == State.PRIMARY_STATE_ACTIVE:
            return
        time.sleep(0.1)
    raise Failed(f"The pose node did not become active. The end of {log}:\n{tail(log)}")


def listen(
    listener: Listener, player: subprocess.Popen, node: subprocess.Popen, table: LiveTable, seconds: float
) -> None:
    """Spins until the player has ended and the node sends nothing more.

    Raises:
        Failed: the node died, or this took longer than so many seconds.
    """
    shown, deadline = 0.0, time.monotonic() + seconds
    while player.poll() is None or time.monotonic() - listener.last_heard < SILENCE_SECONDS:
        rclpy.spin_once(listener, timeout_sec=0.05)
        if time.monotonic() - shown > 0.2:
            table.show(listener.records)
            shown = time.monotonic()
        if node.poll() is not None:
            raise Failed("The pose node died while the recording was playing.")
        if time.monotonic() > deadline:
            raise Failed(f"The recording was still playing after {seconds:.0f} s.")
        if len(listener.records.statuses) == listener.records.frames:
            return


def run(bag: Path, bundle: Path, out: Path) -> Listener:
    """Plays the bag to a pose node with this bundle. Returns the listener with all that it received."""
    with open_bag(bag) as recording:
        records = Records([read_stamp(message.data) for message in recording.messages([IMAGE_TOPIC])])
        seconds = (recording.end - recording.start) * 1e-9 + WAIT_SECONDS + GRACE_SECONDS
    remaps = ["-r", f"image:={IMAGE_TOPIC}", "-r", f"camera_info:={INFO_TOPIC}"]
    log = out / "pose_node.log"
    listener = Listener(records)
    with running(["pose_node", "--ros-args", "-p", f"bundle:={bundle}", *remaps], log) as node:
        wait_until_active(listener, node, log)
        play = ["play", str(bag), "--restamp", "--wait", str(WAIT_SECONDS)]
        with running(play, out / "play.log") as player, LiveTable() as table:
            listen(listener, player, node, table, seconds)
    return listener


def main() -> int:
    parser = argparse.ArgumentParser(prog="./demo", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--bundle", type=Path, default=ROOT / "bundles" / "cube", help="bundle folder (bundles/cube)")
    add("--recording", default="real", help="real (fetched once), synthetic (drawn) or a bag's path")
    add("--out", type=Path, default=ROOT / "demo_out", help="where results go (demo_out)")
    options = parser.parse_args()
    if not (options.bundle / "manifest.json").is_file():
        print(f"No bundle at {options.bundle}: it has no manifest.json", file=sys.stderr)
        return 1
    recording = choose_recording(options.recording)
    if recording.note:
        print(f"The real recording cannot be fetched: {recording.note}\nA drawn one is used instead.")
    shutil.rmtree(options.out / "overlay", ignore_errors=True)
    options.out.mkdir(parents=True, exist_ok=True)
    rclpy.init()
    try:
        listener = run(recording.path, options.bundle, options.out)
    except (Failed, BagError) as reason:
        print(reason, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
    finally:
        rclpy.try_shutdown()
    return report(listener, recording, options)


def report(listener: Listener, recording: Recording, options: argparse.Namespace) -> int:
    """Writes summary, pictures and video. Returns 1 if no frame was processed."""
    name = "visp-images-data mbt/cube" if recording.kind == "real" else recording.path.name
    summary = summarise(listener.records, options.bundle.name, name)
    (options.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(json.dumps(summary, indent=2))
    if listener.camera is not None:
        try:
            write_pictures(recording.path, listener.camera, listener.records, options.out)
        except UnusableMessage as reason:
            print(f"No pictures: {reason}", file=sys.stderr)
    print(f"Pictures, video and summary are in {options.out}")
    return 0 if summary["frames_processed"] else 1


if __name__ == "__main__":
    sys.exit(main())
