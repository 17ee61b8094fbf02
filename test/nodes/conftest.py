# SPDX-License-Identifier: Apache-2.0
import gc
import importlib
import sys
import threading
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # disc_bundle and rig, which these tests share


@pytest.fixture
def ros():
    """rclpy for one test: ros.node(name) makes a node, ros.until(condition, seconds) spins all of them."""
    rclpy = pytest.importorskip("rclpy")
    rclpy.init()
    executor = importlib.import_module("rclpy.executors").SingleThreadedExecutor()
    helper = Ros(rclpy, executor)
    yield helper
    for node in helper.nodes[:]:
        helper.remove(node)
    executor.shutdown(timeout_sec=2)
    rclpy.try_shutdown()
    gc.collect()
    assert helper.receivers() == []  # after 32 participants nobody outside is heard
    assert [t.name for t in threading.enumerate() if t.name == "pose_worker"] == []


class Ros:
    """Nodes of one test in one executor, spun by hand in the test's own thread."""

    def __init__(self, rclpy, executor):
        self.rclpy = rclpy
        self.executor = executor
        self.nodes = []

    def node(self, name, **options):
        node = self.rclpy.create_node(name, **options)
        self.add(node)
        return node

    def add(self, node):
        self.nodes.append(node)
        self.executor.add_node(node)

    def remove(self, node):
        self.nodes.remove(node)
        self.executor.remove_node(node)
        node.destroy_node()

    def until(self, condition, seconds=20.0):
        """Spins until condition() holds; returns whether it ever did within the given seconds."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                return False
            self.executor.spin_once(timeout_sec=0.05)
        return True

    @staticmethod
    def receivers():
        """Fast DDS's threads that wait for messages: none, once the last node of the process is destroyed."""
        names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
        return [name for name in names if name.startswith("dds.udp")]

    def collect(self, node, kind, topic, qos):
        """Returns a list that fills with the messages of a topic while the test spins."""
        messages = []
        node.create_subscription(kind, topic, messages.append, qos)
        return messages
