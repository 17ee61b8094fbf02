# SPDX-License-Identifier: Apache-2.0
"""What the demo receives, frame by frame, and the summary made from it. No ROS here."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pose_kd_ros.core.track import MEASURED


@dataclass(frozen=True)
class Found:
    """One detected object. pose: T_camera_object 4x4; box_pose: of its box's centre; box_size: 3, metres."""

    name: str
    track: str
    score: float
    pose: np.ndarray
    box_pose: np.ndarray
    box_size: np.ndarray


@dataclass
class Records:
    """All messages that arrived. Frames are keyed by their image stamp in nanoseconds; latencies are in
    seconds."""

    headers: list[int]  # header stamps of the recording's images, in order
    stamps: list[int] = field(default_factory=list)  # of the CameraInfo messages, in order
    found: dict[int, list[Found]] = field(default_factory=dict)  # per processed frame
    latency: dict[int, float] = field(default_factory=dict)  # image stamp -> arrival of its detections here
    statuses: list[dict] = field(default_factory=list)  # the node's ~/status, one per processed frame
    transforms: int = 0

    @property
    def frames(self) -> int:
        return len(self.headers)

    def frame_index(self, stamp: int) -> int:
        """Returns the number of the recording's image that a stamp belongs to, once all was played.

        The player moves all header stamps by the same time. The last CameraInfo says by how much: a listener
        that connects late misses only the first ones.
        """
        moved = self.stamps[-1] - self.headers[-1]
        return int(np.abs(np.array(self.headers) + moved - stamp).argmin())


def has_pose(status: dict) -> bool:
    """Returns whether an object's pose was measured in the frame of this status."""
    return any(track["state"] in MEASURED for track in status["tracks"])


def summarise(records: Records, bundle: str, recording: str) -> dict:
    """Returns the summary. dropped: frames that were never processed; latencies in milliseconds."""
    stages = [status["stages_ms"] for status in records.statuses]
    processed = len(records.statuses)
    return {
        "frames": records.frames,
        "frames_processed": processed,
        "frames_with_pose": sum(map(has_pose, records.statuses)),
        "dropped": records.frames - processed,
        "latency_ms": percentiles([seconds * 1e3 for seconds in records.latency.values()]),
        "node_latency_ms": percentiles([status["latency_ms"] for status in records.statuses]),
        "network_ms": percentiles([stage["network"] for stage in stages if "network" in stage]),
        "transforms": records.transforms,
        "bundle": bundle,
        "recording": recording,
    }


def percentiles(values: Sequence[float]) -> dict[str, float | None]:
    """Returns {"p50", "p95"} of the values, None for none."""
    if not values:
        return {"p50": None, "p95": None}
    return {f"p{p}": round(float(np.percentile(values, p)), 2) for p in (50, 95)}
