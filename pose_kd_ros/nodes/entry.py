# SPDX-License-Identifier: Apache-2.0
"""From the command line to a spinning node: what all of them share."""

from __future__ import annotations

import sys
from collections.abc import Callable

import rclpy
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node

from .parameters import UnusableParameter


def spin(make: Callable[[], Node], name: str, args: list[str] | None) -> int:
    """Spin the node that ``make`` returns until Ctrl-C; returns 1, and says why on stderr, where a
    parameter's type or value is refused at start."""
    rclpy.init(args=args)
    try:
        rclpy.spin(make())
    except (UnusableParameter, InvalidParameterTypeException, InvalidParameterValueException) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        rclpy.try_shutdown()
    return 0
