"""Does the node's memory stay flat? Ten thousand frames, over DDS, with objects that come and go.

    python bench/soak.py bundles/cube [--frames 10000] [--rate 100] [--recording BAG]

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
    parser.add_argument("--frames", type=int, default=10000)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--recording", type=Path)
    options = parser.parse_args()
    frames = recorded(options.recording, 300) if options.recording else painted(300, 320, 240)
    sizes = []
    with live(options.bundle, "threads:=1") as (bench, process):
        for index in bench.play(frames, options.frames, options.rate):
            if (index + 1) % max(1, options.frames // 20) == 0:
                sizes.append(resident_mb(process.pid))
                last = bench.statuses[-1] if bench.statuses else {}
                counts = ", ".join(f"{k} {last.get(k)}" for k in ("frames_processed", "dropped", "lost"))
                print(f"sent {index + 1:6d}: {sizes[-1]:7.1f} MB; {counts}", flush=True)
    grown = max(sizes[-3:]) - sizes[1]
    print(f"grown by {grown:.1f} MB after the first tenth, allowed {LIMIT_MB:g} MB")
    return int(grown > LIMIT_MB)


if __name__ == "__main__":
    sys.exit(main())
