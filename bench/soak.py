# SPDX-License-Identifier: Apache-2.0
"""Does the node's memory stay flat? Ten thousand frames, over DDS, with objects that come and go.

    python bench/soak.py bundles/cube [--frames 10000] [--rate 50] [--recording BAG]

Prints the node's own memory as it goes; exits with 1 if that grew by more than LIMIT_MB after the first
tenth.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.live import live, painted, recorded

LIMIT_MB = 10.0


def resident_mb(pid: int) -> float:
    """Resident memory of a process, without the files and shared memory it maps."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle")
    parser.add_argument("--frames", type=int, default=10000, help="to be processed")
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--recording", type=Path)
    options = parser.parse_args()
    frames = recorded(options.recording, 300) if options.recording else painted(300, 320, 240)
    sizes, step = [], max(1, options.frames // 20)
    with live(options.bundle, "threads:=1") as (bench, process):
        for sent in bench.play(frames, 100 * options.frames, options.rate):
            done = bench.statuses[-1]["frames_processed"] if bench.statuses else 0
            if done >= step * (len(sizes) + 1):
                sizes.append(resident_mb(process.pid))
                counts = ", ".join(f"{name} {bench.statuses[-1][name]}" for name in ("dropped", "lost"))
                print(f"sent {sent + 1}, processed {done}, {counts}: {sizes[-1]:.1f} MB", flush=True)
                bench.statuses, bench.tf_ms = bench.statuses[-1:], []
            if done >= options.frames:
                break
    grown = max(sizes[-3:]) - sizes[1]
    print(f"grown by {grown:.1f} MB after the first tenth, allowed {LIMIT_MB:g} MB")
    return int(grown > LIMIT_MB)


if __name__ == "__main__":
    sys.exit(main())
