# SPDX-License-Identifier: Apache-2.0
"""Measure the time from an image's stamp to its transform on /tf, and where the time goes.

    python bench/latency.py bundles/cube [--recording BAG] [--frames 500] [--rate 25]

The node runs in a separate process; images are sent over DDS. Without a recording the images show a painted
disc, which only a bundle trained on it detects. "node overhead" is all time from the message's arrival in the
node to the end of publication, without the network. Prints milliseconds.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from bench.accuracy import row as result_row
from bench.live import live, painted, recorded
from pose_kd_ros.bundle.store import open_bundle

WARM = 20  # first frames, which are not counted


def row(name: str, values) -> dict:
    values = np.asarray(values, float)
    p50, p95, worst = (np.percentile(values, p) for p in (50, 95, 100)) if len(values) else (np.nan,) * 3
    print(f"{name:28s} p50 {p50:8.2f}   p95 {p95:8.2f}   max {worst:8.2f}   n {len(values)}")
    key = name.strip().replace(" ", "_")
    return {f"{key}_ms_p50": p50, f"{key}_ms_p95": p95}


def report(bench, sent: int) -> dict:
    statuses = [s for s in bench.statuses[WARM:] if "network" in s["stages_ms"]]
    stages = [s["stages_ms"] for s in statuses]
    figures = row("stamp to tf", bench.tf_ms[WARM:]) | row(
        "stamp to published", [s["latency_ms"] for s in statuses]
    )
    figures |= row("arrival to published", [s["total"] for s in stages])
    figures |= row("network", [s["network"] for s in stages])
    figures |= row("node overhead", [s["total"] - s["network"] for s in stages])
    for name in ("wait", "read", "preprocess", "decode", "pnp", "track", "publish"):
        figures |= row(f"  {name}", [s.get(name, 0.0) for s in stages])
    share = np.mean([s["network"] / s["total"] for s in stages])
    last = bench.statuses[-1]
    print(f"tracks in a frame: {np.mean([len(s['tracks']) for s in statuses]):.1f}")
    print(f"network's share of arrival to published: {share:.0%}")
    print(
        f"sent {sent}, processed {last['frames_processed']}, dropped {last['dropped']}, lost {last['lost']}, "
        f"with a pose {sum(bool(s['tracks']) for s in statuses)}/{len(statuses)}"
    )
    return {
        **figures,
        "network_share": share,
        **{k: last[k] for k in ("frames_processed", "dropped", "lost")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle")
    parser.add_argument("--recording", type=Path)
    parser.add_argument("--frames", type=int, default=500)
    parser.add_argument("--rate", type=float, default=25.0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("-p", action="append", default=[], metavar="NAME:=VALUE", help="for the node")
    parser.add_argument("--json", type=Path, help="also write the figures there, as docs/results keeps them")
    options = parser.parse_args()
    frames = recorded(options.recording, 300) if options.recording else painted(300, 640, 480)
    with live(options.bundle, f"threads:={options.threads}", *options.p) as (bench, _):
        for _ in bench.play(frames, options.frames + WARM, options.rate):
            pass
        bench.listen(2.0)
        figures = report(bench, options.frames + WARM)
    if options.json:
        source = options.recording.name if options.recording else "painted disc"
        kind = "real" if options.recording else "synthetic"
        name = f"live, 640x480 at {options.rate:g} Hz"
        rows = [result_row(open_bundle(options.bundle), name, source, kind, figures)]
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
