# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import numpy as np
import pytest

from pose_kd_ros.core.pose import make_pose

K = [500.0, 0, 319.5, 0, 500.0, 239.5, 0, 0, 1.0]
CLASSES = {1: "cube", 5: "dragon <5>"}


@pytest.fixture(scope="session")
def write_outcome():
    """A function that writes a folder such as an evaluation leaves: two objects, 60 frames."""
    return write


def write(folder: Path, truth: bool = True, kind: str = "bag", **changes) -> Path:
    """changes: figures that differ from those below, or ``latency``, a factor, or ``name``, the bundle's."""
    latency, name = changes.pop("latency", 1.0), changes.pop("name", "cube_student")
    random = np.random.RandomState(0)
    frames = [frame(number, random, truth, latency) for number in range(60)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "frames.jsonl").write_text("".join(json.dumps(f) + "\n" for f in frames))
    (folder / "summary.json").write_text(json.dumps(summary(name, kind, truth, changes), indent=1))
    return folder


def frame(number: int, random, truth: bool, latency: float) -> dict:
    """Objects that drift; each eleventh frame misses the second, each seventeenth sees a false one."""
    poses = {i: make_pose(np.eye(3), (0.2 * (i - 3) / 2, 0.002 * number - 0.06, 0.8)) for i in CLASSES}
    found = [i for i in CLASSES if i == 1 or number % 11]
    errors = {i: 0.02 + 0.05 * random.rand() ** 3 for i in CLASSES}
    estimates = [estimate(i, poses[i], errors[i], random) for i in found]
    if number % 17 == 16:
        estimates.append(estimate(1, make_pose(np.eye(3), (0.2, 0.1, 0.9)), 0.0, random) | {"track_id": 9})
    times = {"network": 9 + random.rand(), "decode": 1 + random.rand(), "pnp": 2 + 3 * random.rand() ** 4}
    return {
        "frame": number,
        "stamp_ns": 1_700_000_000_000_000_000 + number * 40_000_000,
        "camera": "camera_optical_frame",
        "width": 640,
        "height": 480,
        "K": K,
        "latency_ms": latency * sum(times.values()),
        "stages_ms": {stage: latency * ms for stage, ms in times.items()},
        "estimates": estimates,
        "judged": truth,
        "truth": [true(i, poses[i]) for i in CLASSES] if truth else [],
        "errors": [error(i, found, errors) for i in CLASSES] if truth else [],
    }


def true(object_id: int, pose) -> dict:
    return {"object_id": object_id, "T_camera_object": pose.ravel().tolist(), "visib_fract": 0.9}


def estimate(object_id: int, pose, error: float, random) -> dict:
    moved = pose.copy()
    moved[0, 3] += 0.3 * error
    return {
        "object_id": object_id,
        "class_name": CLASSES[object_id],
        "track_id": object_id,
        "state": "tracked",
        "score": 0.9 - error - 0.1 * random.rand(),
        "T_camera_object": moved.ravel().tolist(),
        "covariance": (1e-6 * np.eye(6)).ravel().tolist(),
        "box": [200, 150, 120, 120],
        "sigma_px": 0.7,
        "consistency_px": None,
    }


def error(object_id: int, found: list[int], errors: dict[int, float]) -> dict:
    number, place = errors[object_id], found.index(object_id) if object_id in found else None
    values = {"mssd_d": number, "mspd_px": 200 * number, "add_d": 0.7 * number, "adds_d": 0.4 * number}
    values |= {"translation_m": 0.1 * number, "rotation_rad": 0.5 * number}
    if place is None:
        values = dict.fromkeys(values)
    pair = {"truth": list(CLASSES).index(object_id), "estimate": place}
    return {"object_id": object_id} | pair | values


def summary(name: str, kind: str, truth: bool, changes: dict) -> dict:
    figures = {"images": 60, "instances": 120, "found": 0.954, "latency_p50_ms": 12.5, "latency_p95_ms": 14.9}
    accurate = {"mssd": 0.8723, "mspd": 0.9131, "median_rotation_rad": 0.0213}
    accurate |= {"median_translation_m": 0.00412, "false_positives_per_image": 0.05}
    accurate |= {"coverage_90": 0.84, "vsd": None}
    x = (np.arange(1, 11) / 20).tolist()
    curves = {
        "mssd": {"x": x, "y": x, "x_label": "MSSD, diameters"},
        "add": {"x": x, "y": np.sqrt(x).tolist(), "x_label": "ADD, diameters"},
        "mspd": {"x": [5.0, 50.0], "y": [0.4, 0.9], "x_label": "MSPD, pixels"},
        "coverage": {"x": x, "y": x, "x_label": "share that the covariance promises"},
    }
    return {
        "schema": 1,
        "kind": kind,
        "source": "desk & shelf.mcap",
        "bundle": {
            "name": name,
            "family": "keypoint",
            "parameters": 1_870_000,
            "gflop": 2.31,
            "size_mb": 7.4,
            "sha256": "a1" * 32,
        },
        "frames": 60,
        "figures": figures | (accurate if truth else {}) | changes,
        "objects": {str(i): {"class_name": c, "found": 0.9 + i / 100} for i, c in CLASSES.items()},
        "curves": curves if truth else {},
        "environment": {"python": "3.12.3", "cpu": "a processor", "cores": 2, "date": "2026-01-02"},
        "faults": {"message of 12 bytes: wanted an Image <sensor_msgs>": 3} if truth else {},
    }
