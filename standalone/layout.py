# SPDX-License-Identifier: Apache-2.0
"""The folders below .state/<distro>, and the environment variables to use them. Standard library only."""

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROFILE_VARIABLES = {"kilted": "FASTDDS_DEFAULT_PROFILES_FILE", "jazzy": "FASTRTPS_DEFAULT_PROFILES_FILE"}
DISTROS = tuple(PROFILE_VARIABLES)
PROFILE = ROOT / "standalone" / "fastdds_shm.xml"


@dataclass(frozen=True)
class Layout:
    """The folders of one distribution's environment. distro: one of DISTROS."""

    distro: str
    root: Path = ROOT

    @property
    def state(self) -> Path:
        return self.root / ".state" / self.distro

    @property
    def venv(self) -> Path:
        return self.state / "venv"

    @property
    def python(self) -> Path:
        return self.venv / "bin" / "python"

    @property
    def overlay(self) -> Path:
        """colcon's build, install and log of the interface packages."""
        return self.state / "overlay"

    @property
    def package(self) -> Path:
        """colcon's build, install and log of pose_kd_ros itself."""
        return self.state / "package"

    @property
    def logs(self) -> Path:
        return self.state / "log"

    @property
    def env_file(self) -> Path:
        return self.state / "env.sh"

    def variables(self) -> dict[str, str]:
        """The environment of a process that uses ROS. It replaces what a sourced distribution may have set.

        The bootstrap variable tells the wheels that LD_LIBRARY_PATH is set; otherwise Python would start
        twice.
        """
        prefixes = [self.package / "install", self.overlay / "install", self.venv]
        site = Path("lib", f"python{sys.version_info[0]}.{sys.version_info[1]}", "site-packages")
        bundled = sorted((self.venv / site).glob("ros_*.libs"))
        return {
            "VIRTUAL_ENV": str(self.venv),
            "ROS_DISTRO": self.distro,
            "ROS_VERSION": "2",
            "ROS_PYTHON_VERSION": "3",
            "RMW_IMPLEMENTATION": "rmw_fastrtps_cpp",
            "AMENT_PREFIX_PATH": join(prefixes),
            "CMAKE_PREFIX_PATH": join(prefixes),
            "PYTHONPATH": join(prefix / site for prefix in prefixes[:2]),
            "PATH": join([prefixes[0] / "lib" / "pose_kd_ros", self.venv / "bin"]),
            "LD_LIBRARY_PATH": join([self.overlay / "install" / "lib", self.venv / "lib", *bundled]),
            "_ROS_WHEELS_BOOTSTRAP_COMPLETE": "1",
        }

    def defaults(self) -> dict[str, str]:
        """Variables that the caller may override: discovery on this machine only, the 64 MB segment."""
        return {
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
            PROFILE_VARIABLES[self.distro]: str(PROFILE),
        }

    def environ(self) -> dict[str, str]:
        """os.environ with this environment in it, for subprocess.

        PATH and LD_LIBRARY_PATH keep what they had.
        """
        own = self.variables()
        for name in ("PATH", "LD_LIBRARY_PATH"):
            own[name] = join([own[name], os.environ[name]] if os.environ.get(name) else [own[name]])
        return {**self.defaults(), **os.environ, **own}

    def environment_script(self) -> str:
        """The text of env.sh, to be sourced by sh, bash or zsh."""
        lines = [f"# Source this to use ROS 2 {self.distro} as standalone/setup.sh made it."]
        for name, value in self.variables().items():
            kept = f'"${{{name}:+:${name}}}"' if name in ("PATH", "LD_LIBRARY_PATH") else ""
            lines.append(f"export {name}={shlex.quote(value)}{kept}")
        for name, value in self.defaults().items():
            lines.append(f': "${{{name}:={value}}}"; export {name}')
        return "\n".join(lines) + "\n"


def join(paths) -> str:
    """Joins paths as in PATH."""
    return os.pathsep.join(map(str, paths))
