# SPDX-License-Identifier: Apache-2.0
"""Checks a pytest run by its junit file: enough tests ran, and only allowed ones were skipped.

python -m standalone.judge_tests REPORT --at-least N
"""

import argparse
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from standalone.layout import ROOT

# Allowed reasons to skip: not on the registries (launch, tf2_ros, cv_bridge), or not on every machine.
ALLOWED = re.compile(r"\b(launch|launch_ros|tf2_ros|cv_bridge|CUDA|no browser)\b")
# Allowed only where there is no folder of development data.
DATA = re.compile(r"\bshared data\b")
HAS_DATA = (ROOT.parent / "shared" / "data").is_dir()


def judge(report: Path, at_least: int, with_data: bool = HAS_DATA) -> list[str]:
    """Returns what is wrong with a run, one sentence each; none if all is well.

    with_data: ../shared/data is there.
    """
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    skipped = {name(case): reason(case) for case in cases if case.find("skipped") is not None}
    bad = {
        case: why
        for case, why in skipped.items()
        if not ALLOWED.search(why) and (with_data or not DATA.search(why))
    }
    wrong = [f"{case} may not be skipped: {why}" for case, why in bad.items()]
    ran = len(cases) - len(skipped)
    if ran < at_least:
        wrong.append(f"{ran} tests ran, wanted at least {at_least}: are all of them found?")
    return wrong


def name(case: ElementTree.Element) -> str:
    return f"{case.get('classname')}::{case.get('name')}"


def reason(case: ElementTree.Element) -> str:
    skip = case.find("skipped")
    return "" if skip is None else skip.get("message") or skip.text or ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path)
    parser.add_argument(
        "--at-least", type=int, required=True, metavar="N", help="so many tests must have run"
    )
    options = parser.parse_args()
    wrong = judge(options.report, options.at_least)
    print("\n".join(wrong), file=sys.stderr, end="\n" if wrong else "")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
