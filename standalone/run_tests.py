# SPDX-License-Identifier: Apache-2.0
"""Runs the tests in groups, each in a separate pytest process, by the native libraries that they load.

python -m standalone.run_tests FOLDER      writes a log and a junit file of each group to FOLDER

DDS, a graphics driver, torch and open3d can crash each other in one process; in separate ones, a crash shows
which of them failed. If a group's process dies, the run fails with the name of the test that it was running;
nothing is run again.
"""

import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from standalone.domains import reserve_domain
from standalone.judge_tests import judge
from standalone.layout import ROOT
from standalone.shared_memory import sweep


@dataclass(frozen=True)
class Group:
    """Tests of one process. floor: least number that must have run; raise it when tests are added."""

    name: str
    floor: int
    paths: tuple[str, ...]
    without: tuple[str, ...] = ()


RENDERED, FITTED = "test/training/render", "test/training/fit"
TORCH = Group("torch", 400, ("test/training",), (RENDERED, FITTED))
FIT = Group("fit", 68, (FITTED,))
GRAPHICS = Group("graphics", 105, (RENDERED,))
NODES = Group("nodes", 320, ("test/nodes", "test/standalone"))
REST = Group("rest", 1040, ("test",), ("test/training", "test/nodes", "test/standalone"))
# Stages run one after the other, the lanes of a stage side by side; these take about the same time. Nothing
# runs beside the nodes, which wait for each other with time limits.
STAGES = (((TORCH,), (REST, GRAPHICS, FIT)), ((NODES,),))


def run_group(group: Group, folder: Path, domain: int) -> list[str]:
    """Runs one group; prints its last line, or all its output if it failed; returns what is wrong."""
    log, report = folder / f"{group.name}.log", folder / f"{group.name}.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}"]
    command += [*group.paths, *(f"--ignore={path}" for path in group.without)]
    # The log names each test when it begins, and holds what native libraries write, such as abort's message.
    command += ["-o", "verbosity_test_cases=1", "--capture=sys"]
    # Idle threads that spin would slow down the tests that run beside them.
    own = {"ROS_DOMAIN_ID": str(domain), "OMP_NUM_THREADS": "1"}
    with log.open("w") as stream:
        code = subprocess.run(
            command, stdout=stream, stderr=subprocess.STDOUT, cwd=ROOT, env=os.environ | own
        ).returncode
    said = log.read_text(errors="replace").rstrip().splitlines()
    if code:
        wrong = [f"{group.name}: {how_it_failed(code, said)}; its log is {log}"]
    else:
        wrong = [f"{group.name}: {what}" for what in judge(report, group.floor)]
    print(f"\n-- {group.name}", *(said if code else said[-1:]), sep="\n", flush=True)
    return wrong


def how_it_failed(code: int, said: list[str]) -> str:
    """Returns how a group failed; for a process that died, with the last test that the log names."""
    if code > 0:
        return "tests failed" if code == 1 else f"pytest ended with exit code {code}"
    names = [found[0] for line in said if (found := re.match(r"\S+\.py::\S+", line))]
    at = f"in {names[-1]}" if names else "before the first test"
    if any(re.match(r"\d+ (passed|failed)", line) for line in said):
        at = "after the last test"
    return f"ended by {signal.Signals(-code).name} {at}"


def run_lane(lane: list[tuple[Group, int]], folder: Path) -> list[str]:
    return [wrong for group, domain in lane for wrong in run_group(group, folder, domain)]


def run_all(folder: Path) -> list[str]:
    """Runs all groups; returns what is wrong, one sentence each."""
    wrong = []
    for stage in STAGES:
        print("Running", " beside ".join(", ".join(g.name for g in lane) for lane in stage), flush=True)
        lanes = [[(group, reserve_domain()) for group in lane] for lane in stage]
        with ThreadPoolExecutor() as pool:
            for found in pool.map(lambda lane: run_lane(lane, folder), lanes):
                wrong += found
    return wrong


def main() -> int:
    sweep()
    try:
        wrong = run_all(Path(sys.argv[1]))
    finally:
        sweep()
    if wrong:
        print("", *wrong, sep="\n", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
