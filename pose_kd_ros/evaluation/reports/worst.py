# SPDX-License-Identifier: Apache-2.0
"""The frames to look at first: where a pose is most wrong, an object was missed, or something was seen that
is not there; without truth, where tracks were lost or scores are low."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ...core.camera import Camera
from ...core.object_model import ObjectModel, box_corners
from ...pipeline.draw import draw_pose
from ...provenance import write_whole
from ..frame import Estimate, Frame, TrueInstance
from ..matching import FOUND
from ..outcome import OVERLAYS

TRUE_RGB = (80, 230, 120)
WIDTH = 800  # pixels that an overlay has at most
QUALITY = 85
COUNT = 6
Entry = tuple[float, int, str]  # how bad, the frame's index, why


@dataclass(frozen=True)
class Worst:
    """A frame by its place in frames.jsonl and its number, and what is wrong with it."""

    index: int
    frame: int
    why: str


def choose(
    frames: Sequence[Frame], count: int = COUNT, names: Mapping[int, str] | None = None
) -> list[Worst]:
    """At most ``count`` frames, the kinds of fault in turn, the worst of each kind first.

    Neighbours of a chosen frame show the same fault and are passed over. names: of objects by id; frames tell
    only of those that were found in them.
    """
    has_truth = any(frame.truth for frame in frames)
    lists = _of_truth(frames, names or {}) if has_truth else _of_tracks(frames)
    apart = max(1, len(frames) // (8 * count))
    chosen: list[Worst] = []
    for candidate in itertools.chain(*itertools.zip_longest(*lists)):
        if len(chosen) == count:
            break
        if candidate and all(abs(candidate.index - other.index) >= apart for other in chosen):
            chosen.append(candidate)
    return chosen


def _of_truth(frames: Sequence[Frame], names: Mapping[int, str]) -> list[list[Worst]]:
    """Wrong poses by MSSD, missed objects by how much of them is seen, false alarms by score."""
    wrong: list[Entry] = []
    missed: list[Entry] = []
    false: list[Entry] = []
    names = {one.object_id: one.class_name for frame in frames for one in frame.estimates} | dict(names)
    for index, frame in enumerate(frames):
        for error in frame.visible_errors:
            name = names.get(error.object_id, f"object {error.object_id}")
            if error.estimate is None or error.mssd_d is None:
                seen = frame.truth[error.truth].visib_fract
                missed.append((seen, index, f"{name} missed, {100 * seen:.0f} % visible"))
            else:
                far = error.mssd_d
                wrong.append((far, index, f"{name} off by {100 * far:.0f} % of its diameter"))
        for estimate in unmatched(frame):
            text = f"{estimate.class_name} seen where none is, score {estimate.score:.2f}"
            false.append((estimate.score, index, text))
    return [_ranked(part, frames) for part in (wrong, missed, false)]


def _of_tracks(frames: Sequence[Frame]) -> list[list[Worst]]:
    """Lost tracks; measured poses by their score; frames without any."""
    lost, low, empty = [], [], []
    for index, frame in enumerate(frames):
        for one in frame.estimates:
            if one.state == "lost":
                lost.append((1 - one.score, index, f"{one.class_name} lost"))
            elif one.is_measured:
                low.append((1 - one.score, index, f"{one.class_name}, score {one.score:.2f}"))
        if not frame.measured:
            empty.append((0.0, index, "nothing found"))
    return [_ranked(part, frames) for part in (lost, low, empty)]


def unmatched(frame: Frame) -> list[Estimate]:
    """Measured estimates that are no instance's, or too far from it; none where nothing is known of it."""
    if not frame.has_truth:
        return []
    near = {error.estimate for error, _, _ in frame.found(FOUND)}
    return [frame.estimates[place] for place in frame.measured if place not in near]


def scattered(index: int) -> int:
    """An order in which equals are shown from all over a recording: that of binary digits read backwards.

    Convention: of 0 to 7 it makes 0, 4, 2, 6, 1, 5, 3, 7.
    """
    return int(f"{index:032b}"[::-1], 2)


def _ranked(found: list[Entry], frames: Sequence[Frame]) -> list[Worst]:
    ordered = sorted(found, key=lambda entry: (-entry[0], scattered(entry[1])))
    return [Worst(index, frames[index].number, why) for _, index, why in ordered]


def write_overlays(
    out: Path,
    frames: Sequence[Frame],
    objects: Mapping[int, ObjectModel],
    image_of: Callable[[Frame], tuple[np.ndarray, Camera]],
    count: int = COUNT,
) -> list[Path]:
    """Draw the worst frames into OUT/overlays, named as ``Outcome.overlay`` says.

    objects: the bundle's, by id. image_of: from a frame to its RGB image (H, W, 3) uint8 and camera.
    """
    paths = []
    for worst in choose(frames, count):
        frame = frames[worst.index]
        image, camera = image_of(frame)
        picture = shrunk(overlay(image, camera, frame, objects))
        code = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
        jpeg = cv2.imencode(".jpg", picture[..., ::-1], code)[1].tobytes()
        paths.append(write_whole(Path(out) / OVERLAYS / f"{worst.frame:06d}.jpg", jpeg))
    return paths


def overlay(image, camera: Camera, frame: Frame, objects: Mapping[int, ObjectModel]) -> np.ndarray:
    """Return a copy of the image: true poses as green boxes, estimates as yellow boxes with axes."""
    image = np.array(image, order="C")
    for true in frame.truth:
        if true.object_id in objects:
            draw_pose(
                image, camera, true.T_camera_object, _corners(true, objects), color=TRUE_RGB, axes=False
            )
    for one in frame.estimates:
        if one.object_id in objects and one.state != "lost":
            draw_pose(image, camera, one.T_camera_object, _corners(one, objects), label(one))
    return image


def label(estimate: Estimate) -> str:
    """Class and score; the state instead of the score for a pose that was not measured in this frame."""
    score = format(estimate.score, ".2f")
    return f"{estimate.class_name} {score if estimate.is_measured else estimate.state}"


def shrunk(image: np.ndarray) -> np.ndarray:
    """The image at most WIDTH pixels wide."""
    height, width = image.shape[:2]
    if width <= WIDTH:
        return image
    return cv2.resize(image, (WIDTH, round(height * WIDTH / width)), interpolation=cv2.INTER_AREA)


def _corners(entry: Estimate | TrueInstance, objects: Mapping[int, ObjectModel]) -> np.ndarray:
    model = objects[entry.object_id]
    return box_corners(model.box_center, model.box_size)
