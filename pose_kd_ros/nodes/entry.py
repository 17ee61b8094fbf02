# SPDX-License-Identifier: Apache-2.0
"""From the command line to a spinning node, and to a clean end.

``ros2 launch`` passes Ctrl-C on while the terminal sends it too, and a node may still be importing its
modules when it comes: the first one ends the process with exit code 0, later ones are ignored.
"""

from __future__ import annotations

import contextlib
import importlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

_interrupted = threading.Event()


def spin(make: Callable[[], Any], name: str, args: list[str] | None) -> int:
    """Spin the node that ``make`` returns until Ctrl-C; returns 1, and says why on stderr, where a
    parameter's type or value is refused at start."""
    interrupt_once()
    import rclpy
    from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
    from rclpy.executors import ExternalShutdownException

    from .parameters import UnusableParameter

    node = None
    with interruptible():
        try:
            rclpy.init(args=args)
            node = make()
            rclpy.spin(node)
        except (UnusableParameter, InvalidParameterTypeException, InvalidParameterValueException) as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
        except ExternalShutdownException:
            pass
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            if node is not None:
                with contextlib.suppress(Exception):  # rclpy's signal handler has ended the context by now
                    node.destroy_node()
            rclpy.try_shutdown()
    return 0


def interrupt_once() -> None:
    """Raise KeyboardInterrupt on the first SIGINT only: a second one would break off the clean end."""

    def interrupt(*_) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _interrupted.set()
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Leave the block in peace where SIGINT came: what it interrupts may make any exception of it."""
    try:
        yield
    except BaseException:
        if not _interrupted.is_set():
            raise


def run(module: str) -> int:
    """Import a node's module, which takes a second, and run its ``main``; Ctrl-C ends either with 0."""
    with interruptible():
        interrupt_once()
        return importlib.import_module(f"pose_kd_ros.nodes.{module}").main()
    return 0


def pose_node() -> int:
    """Entry point of the pose node."""
    return run("pose_node")


def overlay_node() -> int:
    """Entry point of the overlay node."""
    return run("overlay_node")


def doctor() -> int:
    """Entry point of the doctor."""
    return run("doctor")
