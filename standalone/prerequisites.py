# SPDX-License-Identifier: Apache-2.0
"""Checks, before anything is installed, what a machine lacks: one message, one apt line.

Standard library only.
"""

import importlib.util
import platform
import shutil
import sys
import sysconfig
from pathlib import Path

PYTHONS = ((3, 10), (3, 14))  # the ROS wheels exist for these, both ends included


class Missing(RuntimeError):
    """Something the set-up needs is not there; the text says what it is and how to get it."""


def check_prerequisites() -> None:
    """Checks this interpreter and this machine.

    Raises:
        Missing: no ROS wheels exist for this machine or Python, or packages are missing (one apt line).
    """
    check_place(Path(__file__).resolve().parent.parent)
    check_platform(platform.system(), platform.machine())
    check_python(sys.version_info[:2])
    lacking = missing_packages(sys.version_info[:2])
    if lacking:
        raise Missing(apt_message(lacking))


def check_platform(system: str, machine: str) -> None:
    """Refuses machines without ROS wheels, such as arm64 boards: those use their ROS 2 distribution."""
    if (system, machine) != ("Linux", "x86_64"):
        raise Missing(
            f"ROS 2 wheels exist for Linux on x86_64, this is {system} on {machine}. "
            "Use this machine's ROS 2 distribution: clone into a workspace, rosdep install, colcon build."
        )


def check_place(root: Path) -> None:
    """Refuses a checkout whose path CMake or the first line of a script cannot hold."""
    odd = [character for character in str(root) if character.isspace() or character in "'\"#$;"]
    if odd or not str(root).isascii():
        raise Missing(
            f"{root}: wanted a path of ASCII characters without blanks or quotes, found others: CMake and "
            "the first lines of scripts cannot hold them. Move the checkout."
        )


def check_python(version: tuple[int, int]) -> None:
    """Refuses interpreters without ROS wheels. version: (major, minor)."""
    low, high = PYTHONS
    if not low <= version <= high:
        raise Missing(
            f"ROS 2 wheels exist for Python {low[0]}.{low[1]} to {high[0]}.{high[1]}, "
            f"found {version[0]}.{version[1]} ({sys.executable}). Install one of those, "
            "or name one: standalone/setup.sh --python <path>"
        )


def missing_packages(version: tuple[int, int]) -> dict[str, str]:
    """Returns {apt package: what it is for} of everything that is not there, in a fixed order."""
    python = f"python{version[0]}.{version[1]}"
    lacking = {}
    if not importlib.util.find_spec("ensurepip") or not importlib.util.find_spec("venv"):
        lacking[f"{python}-venv"] = "Python's venv module"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        lacking[f"{python}-dev"] = "Python's C headers"
    tools = {
        "a C compiler": ("cc", "gcc", "clang"),
        "a C++ compiler": ("c++", "g++", "clang++"),
        "make": ("make",),
    }
    absent = [name for name, programs in tools.items() if not any(map(shutil.which, programs))]
    if absent:
        lacking["build-essential"] = ", ".join(absent)
    return lacking


def apt_message(lacking: dict[str, str]) -> str:
    """lacking: {apt package: what it is for}. Returns the message with its one apt line."""
    wants = "; ".join(lacking.values())
    return f"Missing: {wants}. Install with:\n    sudo apt-get install -y {' '.join(lacking)}"
