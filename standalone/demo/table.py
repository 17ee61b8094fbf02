# SPDX-License-Identifier: Apache-2.0
"""The demo's live table: redrawn in place on a terminal; without one, a line every LINE_SECONDS."""

import time

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.table import Table
from scipy.spatial.transform import Rotation

from standalone.demo.records import Found, Records, has_pose, percentiles

LINE_SECONDS = 2.0  # between two lines without a terminal


class LiveTable:
    """Shows Records while they fill; use as a with block and call `show` as often as you like."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console()
        self._live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None
        self._last_line = -LINE_SECONDS

    def __enter__(self):
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *reason):
        if self._live:
            self._live.stop()

    def show(self, records: Records) -> None:
        """Draws the newest state."""
        if self._live:
            self._live.update(to_table(records), refresh=True)
        elif time.monotonic() - self._last_line >= LINE_SECONDS and records.statuses:
            self._last_line = time.monotonic()
            self.console.print(to_line(records), soft_wrap=True)


def to_table(records: Records) -> Table:
    """Returns one row per object in the newest frame, with the counts in the caption."""
    table = Table(title=f"/pose_node/detections, frame {len(records.stamps)} of {records.frames}")
    for name in ("object", "track", "x, y, z [m]", "roll, pitch, yaw [deg]", "score"):
        table.add_column(name, min_width=9)
    for found in newest(records):
        table.add_row(found.name, found.track, *position_and_angles(found), f"{found.score:.2f}")
    table.caption = counts(records)
    return table


def to_line(records: Records) -> str:
    """Returns the newest state as one line of text."""
    objects = "; ".join(
        f"{found.name} at {position_and_angles(found)[0]} m, score {found.score:.2f}"
        for found in newest(records)
    )
    return f"frame {len(records.stamps)}/{records.frames}: {objects or 'no object'} | {counts(records)}"


def counts(records: Records) -> str:
    """Returns counts and latencies as text."""
    latency = percentiles([seconds * 1e3 for seconds in records.latency.values()])
    status = records.statuses[-1] if records.statuses else {}
    return (
        f"with pose {sum(map(has_pose, records.statuses))}/{len(records.statuses)}, "
        f"latency p50 {latency['p50'] or '-'} ms, p95 {latency['p95'] or '-'} ms, "
        f"dropped {status.get('dropped', 0)}, transforms {records.transforms}"
    )


def newest(records: Records) -> list[Found]:
    """Returns the objects of the frame that arrived last."""
    return next(reversed(records.found.values()), [])


def position_and_angles(found: Found) -> tuple[str, str]:
    """Returns position in metres and x-y-z Euler angles in degrees, as text."""
    angles = Rotation.from_matrix(found.pose[:3, :3]).as_euler("xyz", degrees=True)
    return join(found.pose[:3, 3], 3), join(angles, 0)


def join(values: np.ndarray, digits: int) -> str:
    return ", ".join(f"{value:.{digits}f}" for value in values)
