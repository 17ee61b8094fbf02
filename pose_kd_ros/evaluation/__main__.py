# SPDX-License-Identifier: Apache-2.0
"""Accuracy that you can check yourself.

    evaluate BAG --bundle B            a recording of your own
    evaluate --bop FOLDER --bundle B   a BOP data set
    evaluate score ...                 any results file in BOP's format
    evaluate compare BUNDLE ...        bundles beside each other
    evaluate report OUT                write the page of an evaluation again

`evaluate BAG --help`, `evaluate --bop FOLDER --help`, `evaluate score --help` and so on tell the options of
each. With ROS it is `ros2 run pose_kd_ros evaluate`, without `python -m pose_kd_ros.evaluation`.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import sys
import traceback
from collections.abc import Sequence

from .console import BROKEN, STOPPED

VERBS = {"score": "score", "compare": "reports.compare", "report": "reports.page"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command-line entry; returns the exit code."""
    is_command, arguments = arguments is None, list(sys.argv[1:] if arguments is None else arguments)
    if arguments in ([], ["-h"], ["--help"]):
        print(__doc__)
        return 0 if arguments else 2
    try:
        return run(arguments, is_command)
    except KeyboardInterrupt:
        print("stopped; the same command goes on with what is there", file=sys.stderr)
        return STOPPED
    except Exception:  # Python's own exit code for it, 1, says that a figure is worse than a baseline
        traceback.print_exc()
        return BROKEN


def run(arguments: list[str], is_command: bool) -> int:
    """Import what the arguments are for, and run it."""
    name, rest = route(arguments)
    module = importlib.import_module(f"pose_kd_ros.evaluation.{name}")
    if is_command:
        gc.freeze()  # what was imported stays: neither collections nor the exit (0.3 s) look at it
    parser = argparse.ArgumentParser(
        prog=" ".join(["evaluate", *arguments[: len(arguments) - len(rest)]]),
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    return module.main(parser.parse_args(rest))


def route(arguments: list[str]) -> tuple[str, list[str]]:
    """Return the module that a command line is for, and what is left of it."""
    if arguments[0] in VERBS:
        return VERBS[arguments[0]], arguments[1:]
    is_bop = any(text == "--bop" or text.startswith("--bop=") for text in arguments)
    return "run_bop" if is_bop else "run_bag", arguments


if __name__ == "__main__":
    sys.exit(main())
