# SPDX-License-Identifier: Apache-2.0
"""Measure how long an evaluation takes, compared with the recorded time, and where the time goes.

    python -m bench.evaluation .state/recordings/cube --bundle cube --out docs/results/evaluation.json

Runs the command as users do, in a separate process, from its start to the finished page. The network's share
is the lower limit: every crop is one inference, and tracking needs the frames in order.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.rows import common
from pose_kd_ros.bundle.find import find_bundle


def run(recording: Path, bundle: str, out: Path) -> float:
    """Evaluate into the folder ``out``; return the seconds that it took."""
    command = [sys.executable, "-m", "pose_kd_ros.evaluation"]
    command += [str(recording), "--bundle", bundle, "--out", str(out)]
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    return time.perf_counter() - start


def measured(recording: Path, bundle: str, runs: int) -> dict[str, float]:
    """Return medians over the runs, seconds, the shortest and the longest, and ``ratio``, the median over the
    recorded time."""
    whole, stages = [], []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            whole.append(run(recording, bundle, Path(folder, "out")))
            lines = Path(folder, "out", "frames.jsonl").read_text(encoding="utf-8").splitlines()
        frames = [json.loads(line) for line in lines]
        names = {name for frame in frames for name in frame["stages_ms"]}
        stages.append({n: sum(frame["stages_ms"].get(n, 0.0) for frame in frames) / 1e3 for n in names})
        print(f"{whole[-1]:.2f} s", flush=True)
    stamps = [frame["stamp_ns"] for frame in frames]
    recorded = (stamps[-1] - stamps[0]) / 1e9 * len(stamps) / (len(stamps) - 1)
    middle = {name: float(np.median([of_run[name] for of_run in stages])) for name in sorted(stages[0])}
    return {
        "frames": len(frames),
        "runs": runs,
        "recorded_s": recorded,
        "evaluation_s": float(np.median(whole)),
        "least_s": min(whole),
        "most_s": max(whole),
        "ratio": float(np.median(whole)) / recorded,
        **{f"{name}_s": value for name, value in middle.items()},
        "around_s": float(np.median(whole)) - sum(middle.values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recording", type=Path)
    parser.add_argument("--bundle", default="cube")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    bundle = json.loads((find_bundle(options.bundle) / "manifest.json").read_text(encoding="utf-8"))
    figures = measured(options.recording, options.bundle, options.runs)
    training = bundle["training"]
    row = common(
        "evaluation of the demo's recording",
        training["method"],
        bundle["family"],
        options.recording.name,
        "real",
        network=bundle["name"],
        seed=training["seed"],
        steps=training["steps"],
    ) | {name: float(f"{value:.4g}") for name, value in figures.items()}
    print(json.dumps(row, indent=1))
    if options.out:
        options.out.write_text(json.dumps([row], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
