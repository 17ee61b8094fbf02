# SPDX-License-Identifier: Apache-2.0
"""Make the README's animation: a recording, tracked as in the node, with the poses drawn on it.

    python -m bench.picture .state/recordings/cube --bundle cube --out docs/images/demo.webp

No frame is dropped, however slow the machine is: unlike ./demo it does not run in real time.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
from PIL import Image

from pose_kd_ros.core.object_model import box_corners
from pose_kd_ros.core.track import MEASURED
from pose_kd_ros.evaluation.loading import load_follower
from pose_kd_ros.pipeline.draw import draw_pose
from pose_kd_ros.recordings.bags import open_bag
from pose_kd_ros.recordings.images import BagImages

EVERY, MILLISECONDS = 3, 120  # of a recording at 25 Hz, every third frame; time for which each is shown
WIDTH = 480  # pixels


def pictures(recording: Path, bundle: str) -> Iterator[Image.Image]:
    """Yield every third frame with the poses that were measured in it."""
    follower = load_follower(bundle)
    with open_bag(recording) as bag:
        for number, frame in enumerate(BagImages(bag).frames()):
            tracks = follower.process(frame.stamp_ns * 1e-9, frame.image, frame.camera).tracks
            follower.look_around()
            if number % EVERY:
                continue
            drawn = frame.image.copy()
            for track in tracks:
                if track.state in MEASURED:
                    model = follower.estimator.objects[track.object_id]
                    corners = box_corners(model.box_center, model.box_size)
                    draw_pose(drawn, frame.camera, track.pose, corners, f"{model.name} {track.score:.2f}")
            size = WIDTH, WIDTH * drawn.shape[0] // drawn.shape[1]
            yield Image.fromarray(cv2.resize(drawn, size, interpolation=cv2.INTER_AREA))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recording", type=Path)
    parser.add_argument("--bundle", default="cube")
    parser.add_argument("--out", type=Path, required=True, help="a .webp file")
    options = parser.parse_args()
    first, *others = pictures(options.recording, options.bundle)
    first.save(
        options.out, save_all=True, append_images=others, duration=MILLISECONDS, loop=0, quality=50, method=6
    )
    print(f"{options.out}: {1 + len(others)} pictures, {options.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
