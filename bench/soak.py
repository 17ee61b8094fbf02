# SPDX-License-Identifier: Apache-2.0
"""Soak test of the pose node: minutes or hours at camera rate, with disturbances at random.

    python -m bench.soak bundles/cube [--minutes 60] [--recording BAG] [--other bundles/lmo] [--out FILE]

The node runs in a separate process, under simulated time. Calm seconds and disturbances take turns: cameras
and subscribers that go and return, recordings that loop, jumps of the clock, hostile images and calibrations,
other bundles, lifecycle transitions, services. After each the node must work again within RECOVER_S. Exits
with 1 if it did not, if frames are unaccounted for, or if memory, threads or open files grew.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .disturbances import DISTURBANCES, Driver, Ticks
from .live import node_process, painted, recorded
from .rows import common

CALM_S = (3.0, 10.0)  # between two disturbances
RECOVER_S = 15.0  # after a disturbance a frame must be processed within so many seconds
UNDER_WAY = 8  # frames that may be sent, but not counted yet, when a status is written
GROWTH_MB_H, MORE_THREADS, MORE_FILES = 20.0, 4, 10
SETTLED = 0.2  # share of the time after which memory must no longer grow


def resources(pid: int) -> tuple[float, int, int]:
    """Return a process's memory in MB (without mapped files and shared memory), threads and open files."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    values = dict(line.split(":", 1) for line in lines)
    files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return float(values["RssAnon"].split()[0]) / 1024, int(values["Threads"]), files


def calm(
    driver: Driver, wants_objects: bool, lasting: tuple[float, float] = CALM_S
) -> tuple[float | None, int]:
    """Let the node work in peace. Return the seconds until it did, or None, and frames unaccounted for."""
    driver.status.clear()
    driver.sent.clear()  # stamps may have gone back
    start, recovered = time.monotonic(), None
    end = start + driver.random.uniform(*lasting)
    while time.monotonic() < end or (recovered is None and time.monotonic() < start + RECOVER_S):
        driver.tick()
        if recovered is None and any(
            s["stamp"] in driver.sent and (s["tracks"] or not wants_objects) for s in driver.status
        ):
            recovered = time.monotonic() - start
            driver.status.clear()  # counts from here on: topics have found each other again
    if len(driver.status) < 2:
        return recovered, 0
    first, last = driver.status[0], driver.status[-1]
    sent = sum(first["stamp"] < stamp <= last["stamp"] for stamp in driver.sent)
    counted = sum(last[name] - first[name] for name in ("frames_received", "lost"))
    return recovered, abs(sent - counted)


def soak(driver: Driver, pid: int, minutes: float, wants_objects: bool, lasting=CALM_S) -> dict:
    """Run for so many minutes; return what was measured. lasting: shortest and longest calm, seconds."""
    recovery: dict[str, list[float]] = defaultdict(list)
    missed: Counter[str] = Counter()
    memory: list[tuple[float, float, int, int]] = []
    unaccounted = 0
    calm(driver, wants_objects, lasting)
    start = time.monotonic()
    queue: list[Callable[[Driver], Ticks]] = []
    while time.monotonic() < start + 60 * minutes:
        if not queue:  # all once in each round, in random order
            queue = driver.random.sample(DISTURBANCES, len(DISTURBANCES))
        disturbance = queue.pop()
        for _ in disturbance(driver):
            pass
        seconds, left = calm(driver, wants_objects, lasting)
        if seconds is None:
            missed[disturbance.__name__] += 1
            driver.problems.append(f"{disturbance.__name__}: not at work again within {RECOVER_S:g} s")
        else:
            recovery[disturbance.__name__].append(seconds)
        unaccounted = max(unaccounted, left)
        hours = (time.monotonic() - start) / 3600
        mb, threads, files = resources(pid)
        memory.append((hours, mb, threads, files))
        took = "not at work" if seconds is None else f"{seconds:.2f} s"
        print(
            f"{60 * hours:6.1f} min  {disturbance.__name__}: {took}, {mb:.1f} MB, {threads} threads, "
            f"{files} files, {left} frames unaccounted for, {len(driver.problems)} problems",
            flush=True,
        )
    return figures(driver, recovery, missed, np.array(memory), unaccounted)


def figures(driver: Driver, recovery, missed: Counter, memory: np.ndarray, unaccounted: int) -> dict:
    """Sum a run up. memory: rows of (hours, MB, threads, files)."""
    settled = memory[len(DISTURBANCES) :]  # what each needs once, as a second bundle, is no leak
    settled = settled[settled[:, 0] > SETTLED * memory[-1, 0]]
    slope = float(np.polyfit(settled[:, 0], settled[:, 1], 1)[0]) if len(settled) > 2 else 0.0
    totals: Counter[str] = Counter()
    for epoch in driver.epochs:
        totals.update(epoch)
    return {
        "minutes": round(60 * float(memory[-1, 0]), 1),
        "rate_hz": driver.rate,
        "frames_sent": driver.sent_total,
        **dict(sorted(totals.items())),
        "disturbances": {name: len(values) for name, values in sorted(recovery.items())},
        "recovery_s_max": {name: round(max(values), 2) for name, values in sorted(recovery.items())},
        "missed_recoveries": dict(missed),
        "frames_received_and_not_counted_most": driver.unbalanced,
        "frames_sent_and_not_counted_most": unaccounted,
        "memory_mb": [round(float(memory[k, 1]), 1) for k in (0, -1)],
        "memory_slope_mb_h": round(slope, 2),
        "threads": [int(memory[k, 2]) for k in (0, -1)],
        "open_files": [int(memory[k, 3]) for k in (0, -1)],
        "problems": driver.problems,
    }


def faults(found: dict, exit_code: int) -> list[str]:
    """Say what is wrong, one sentence each."""
    wrong = list(found["problems"])
    if (
        found["memory_slope_mb_h"] > GROWTH_MB_H
        and found["memory_mb"][1] > found["memory_mb"][0] + GROWTH_MB_H
    ):
        wrong.append(f"memory: wanted at most {GROWTH_MB_H:g} MB/h, found {found['memory_slope_mb_h']}")
    for name, more in (("threads", MORE_THREADS), ("open_files", MORE_FILES)):
        before, after = found[name]
        if after > before + more:
            wrong.append(f"{name}: wanted at most {before + more}, found {after}")
    for name in ("frames_received_and_not_counted_most", "frames_sent_and_not_counted_most"):
        if found[name] > UNDER_WAY:
            wrong.append(f"{name}: wanted at most {UNDER_WAY}, found {found[name]}")
    if exit_code:
        wrong.append(f"exit code after SIGINT: wanted 0, found {exit_code}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=30.0, help="frames a second")
    parser.add_argument(
        "--recording", type=Path, help="its frames in place of painted ones; shows the object"
    )
    parser.add_argument("--other", action="append", default=[], help="bundle to swap to; may be repeated")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    frames = recorded(options.recording, 200) if options.recording else painted(200, 320, 240)
    bundles = [str(Path(path).resolve()) for path in (options.bundle, *options.other)]
    with node_process(bundles[0], "threads:=1", "use_sim_time:=true") as process:
        driver = Driver(frames, options.rate, bundles, options.seed)
        found = soak(driver, process.pid, options.minutes, options.recording is not None)
        process.send_signal(signal.SIGINT)
        wrong = faults(found, process.wait(20))
    print(json.dumps(found, indent=1))
    if options.out:
        about = common("soak", "node", "", str(options.recording or "painted"), "live", seed=options.seed)
        options.out.write_text(json.dumps([about | found], indent=1) + "\n", encoding="utf-8")
    print(*wrong, sep="\n", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
