# SPDX-License-Identifier: Apache-2.0
"""How the node is doing: counts, latencies and what is wrong, as /diagnostics and ~/status say it.

Percentiles are over the last WINDOW frames. ``diagnostic_updater`` is not used: its Python half uses another
clock and misjudges rates under simulated time.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, deque

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from std_msgs.msg import String

WINDOW = 300
QUIET_S = 3.0  # without a frame for so long, the watchdog speaks


class Health:
    """Counts and timings; the callback thread and the worker both write to it.

    frames_received = frames_processed + dropped + refused + unwatched (+ one or two under way).
    lost: sent, but never arrived here.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        with self._lock:
            self.received = self.processed = self.lost = 0
            self.refused: Counter[str] = Counter()
            self.unwatched = 0  # frames that nobody wanted to know of
            self.ignored: Counter[str] = Counter()  # given regions that were not used
            self.depth: Counter[str] = Counter()  # frames with poses, by what came of their depth images
            self.warnings: dict[str, str] = {}  # what looks like a mistake, by its kind
            self.problem = ""  # the last refusal's text, until a frame is processed
            self.last_frame = time.monotonic()
            self._latency_ms: deque[float] = deque(maxlen=WINDOW)
            self._stages_ms: dict[str, deque[float]] = {}
            self._last: tuple[int | None, int] = (None, 0)

    def arrived(self, sequence: int | None, publishers: int = 1) -> None:
        """A frame came; a gap in its publisher's sequence numbers is a frame that never did.

        rclpy does not say whose number it is, so gaps count only while one publisher is there, and not where
        the number goes back or ``publishers`` has changed.
        """
        with self._lock:
            self.received += 1
            self.last_frame = time.monotonic()
            before, alone = self._last[0], self._last[1] == publishers == 1
            if alone and sequence and before and sequence > before:
                self.lost += sequence - before - 1
            self._last = (sequence, publishers)

    def refuse(self, reason: str, text: str) -> None:
        """A frame could not be used."""
        with self._lock:
            self.refused[reason] += 1
            self.problem = text

    def skip(self) -> None:
        """Nobody subscribes to what a frame would give."""
        with self._lock:
            self.unwatched += 1
            self.problem = ""

    def ignore(self, reason: str, count: int) -> None:
        """So many given regions were not used."""
        with self._lock:
            if count:
                self.ignored[reason] += count

    def count_depth(self, reason: str, frames: int = 1) -> None:
        """A frame's depth image was used, missing or refused."""
        with self._lock:
            self.depth[reason] += frames

    def warn(self, kind: str, text: str) -> None:
        """Something looks like a mistake, or, with an empty text, does no longer."""
        with self._lock:
            self.warnings[kind] = text

    def warning(self) -> str:
        """All that looks like a mistake, in one text."""
        with self._lock:
            return "; ".join(text for text in self.warnings.values() if text)

    def done(self, latency_ms: float, stages_ms: dict[str, float]) -> None:
        """A frame was processed and its results are out."""
        with self._lock:
            self.processed += 1
            self.problem = ""
            self._latency_ms.append(latency_ms)
            for stage, value in stages_ms.items():
                self._stages_ms.setdefault(stage, deque(maxlen=WINDOW)).append(value)

    def quiet_s(self) -> float:
        """Seconds since the last frame arrived, or since the reset."""
        return time.monotonic() - self.last_frame

    def counts(self, dropped: int) -> dict[str, int]:
        """The counts by name; dropped: frames replaced by a newer one before the worker was free."""
        with self._lock:
            return {
                "frames_received": self.received,
                "frames_processed": self.processed,
                "dropped": dropped,
                "lost": self.lost,
                "unwatched": self.unwatched,
                **{f"refused_{reason}": n for reason, n in sorted(self.refused.items())},
                **{f"regions_ignored_{reason}": n for reason, n in sorted(self.ignored.items())},
                **{f"depth_{reason}": n for reason, n in sorted(self.depth.items())},
            }

    def percentiles(self) -> dict[str, float]:
        """p50 and p95 of the latency from image stamp to publication, and of every stage, in milliseconds."""
        with self._lock:
            series = {"latency": list(self._latency_ms), **{k: list(v) for k, v in self._stages_ms.items()}}
        return {
            f"{name}_ms_p{p}": round(float(np.percentile(values, p)), 2)
            for name, values in series.items()
            if values
            for p in (50, 95)
        }


def status_message(
    stamp: float, counts: dict[str, int], latency_ms: float, stages_ms: dict[str, float], outcome: dict
) -> String:
    """One frame's ~/status as JSON; outcome: what was found in it."""
    stages = {name: round(value, 3) for name, value in stages_ms.items()}
    return String(
        data=json.dumps(
            {
                "stamp": stamp,
                **counts,
                "latency_ms": round(latency_ms, 3),
                "stages_ms": stages,
                **outcome,
            }
        )
    )


def diagnostic_array(stamp, node_name: str, verdict: tuple[bytes, str], values: dict) -> DiagnosticArray:
    """Return a DiagnosticArray with one status. verdict: (DiagnosticStatus.OK | WARN | ERROR, message).

    node_name: with its namespace, since two nodes of one name must not share a status.
    """
    level, text = verdict
    status = DiagnosticStatus(
        level=level,
        name=f"{node_name.lstrip('/')}: pose estimation",
        hardware_id="",
        message=text,
        values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
    )
    array = DiagnosticArray(status=[status])
    array.header.stamp = stamp
    return array


def diagnose(active: bool, fault: str, problem: str, quiet: str, warning: str = "") -> tuple[bytes, str]:
    """The level and message for /diagnostics, from the gravest finding down; empty texts mean no finding."""
    if fault:
        return DiagnosticStatus.ERROR, fault
    if not active:
        return DiagnosticStatus.WARN, "not active"
    if quiet:
        return DiagnosticStatus.ERROR, quiet
    if problem:
        return DiagnosticStatus.ERROR, problem
    if warning:
        return DiagnosticStatus.WARN, warning
    return DiagnosticStatus.OK, "estimating poses"


def explain_silence(topic: str, kind: type, seconds: float, wanted_reliable: bool, publishers: list) -> str:
    """Say why no frame may have come.

    kind: the wanted message class. publishers: the topic's TopicEndpointInfo.
    """
    said = f"no image on {topic} for {seconds:.0f} s: "
    if not publishers:
        return said + "nobody publishes there (is the topic remapped? is ROS_DOMAIN_ID the same?)"
    names = ", ".join(describe(info) for info in publishers)
    if all(not info.topic_type.endswith(f"/{kind.__name__}") for info in publishers):
        return said + f"{names}, this node wants {kind.__name__}; set the parameter image_transport"
    if wanted_reliable and any(info.qos_profile.reliability.name == "BEST_EFFORT" for info in publishers):
        return (
            said
            + f"this node asks for reliable images, but {names}; set the parameter reliability to best_effort"
        )
    return said + (
        f"{names}. If it does publish, its images may not fit Fast DDS's default shared-memory segment "
        "(0.5 MB): use a profile with a 64 MB segment on both sides (FASTDDS_DEFAULT_PROFILES_FILE)"
    )


def describe(info) -> str:
    """One publisher in words: node, type and QoS."""
    qos = info.qos_profile
    return (
        f"{info.node_namespace.rstrip('/')}/{info.node_name} publishes {info.topic_type} "
        f"({qos.reliability.name.lower()}, {qos.durability.name.lower()})"
    )
