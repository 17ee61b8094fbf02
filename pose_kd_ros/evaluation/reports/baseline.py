# SPDX-License-Identifier: Apache-2.0
"""An evaluation against an earlier one: what changed, by how much, and whether a robot may have it."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..console import OK, WORSE, text_table
from ..outcome import SUMMARY, OutcomeError, Summary, read_summary
from .meaning import NEITHER, is_time, meaning

DEFAULT, TIMES = "2%", "100%"  # a duration may double: neighbours on a machine do that to it
BAD = ("REGRESSION", "GONE")


@dataclass(frozen=True)
class Tolerance:
    """By how much a figure may get worse: an amount in the figure's unit, or a share of the baseline."""

    amount: float
    relative: bool

    def allowed(self, baseline: float) -> float:
        return self.amount * abs(baseline) if self.relative else self.amount


@dataclass(frozen=True)
class Change:
    """One figure of both evaluations; NaN where one has none.

    verdict: "ok", "better", "new", "not compared", "REGRESSION" (worse by more than allowed)
    or "GONE" (the baseline had it).
    """

    figure: str
    baseline: float
    now: float
    allowed: float
    verdict: str


def parse_tolerance(text: str) -> Tolerance:
    """``0.02``: in the figure's own unit; ``5%``: of the baseline. Raises OutcomeError."""
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+)(e-?\d+)?(%?)", text.strip())
    if not match:
        raise OutcomeError(f"tolerance: wanted a number such as 0.02 or a share such as 5%, found {text!r}")
    amount = float(match[1] + (match[2] or ""))
    return Tolerance(amount / 100 if match[3] else amount, bool(match[3]))


def flat(summary: Summary) -> dict[str, float]:
    """All figures, those of an object as ``<id>.<name>``."""
    return dict(summary.figures) | {
        f"{object_id}.{name}": value
        for object_id, figures in summary.objects.items()
        for name, value in figures.items()
        if name != "class_name"
    }


def changes(
    baseline: Summary, now: Summary, tolerances: Mapping[str, str], default: str = ""
) -> list[Change]:
    """Return the change of every figure of either side.

    tolerances: texts of ``parse_tolerance`` by figure; one for ``mssd`` counts for each object's, too.
    default: for the others; without it DEFAULT, and TIMES for durations. Raises OutcomeError for evaluations
    of different things and for a tolerance of a figure that neither side has.
    """
    for field in ("kind", "source"):
        found, wanted = getattr(now, field), getattr(baseline, field)
        if found != wanted:
            raise OutcomeError(f"against: {field}: wanted {wanted!r}, as the baseline has, found {found!r}")
    before, after = flat(baseline), flat(now)
    names = list(dict.fromkeys([*before, *after]))
    known = {*names, *(base(name) for name in names)}
    unknown = sorted(set(tolerances) - known)
    if unknown:
        found = ", ".join(map(repr, unknown))
        raise OutcomeError(f"tolerance: wanted figures of {', '.join(sorted(known))}, found {found}")

    def tolerance(name: str) -> Tolerance:
        usual = default or (TIMES if is_time(base(name)) else DEFAULT)
        return parse_tolerance(tolerances.get(name) or tolerances.get(base(name)) or usual)

    nan = math.nan
    return [compared(name, before.get(name, nan), after.get(name, nan), tolerance(name)) for name in names]


def base(name: str) -> str:
    """The figure's name without the object's id."""
    return re.sub(r"^\d+\.", "", name)


def compared(name: str, baseline: float, now: float, tolerance: Tolerance) -> Change:
    """One figure's change."""
    sense = meaning(base(name))
    allowed = tolerance.allowed(baseline)
    worse = 0.0 if now == baseline else sense.loss(now) - sense.loss(baseline)
    if sense.better == NEITHER or (math.isnan(baseline) and math.isnan(now)):
        return Change(name, baseline, now, math.nan, "not compared")
    if math.isnan(baseline):
        verdict = "new"
    elif math.isnan(now):
        verdict = "GONE"
    elif worse > allowed + 1e-12:
        verdict = "REGRESSION"
    else:
        verdict = "better" if worse < 0 else "ok"
    return Change(name, baseline, now, allowed, verdict)


def change_table(found: list[Change]) -> str:
    """The figures that are not the same on both sides, and every bad one, as text."""
    shown = [c for c in found if c.verdict in BAD or not _same(c.baseline, c.now)]
    if not shown:
        return f"all {len(found)} figures as in the baseline"
    rows = []
    for change in shown:
        show = meaning(base(change.figure)).show
        sides = show(change.baseline), show(change.now), show(change.allowed)
        rows.append((change.figure, *sides, change.verdict))
    return text_table(("figure", "baseline", "now", "may lose", "verdict"), rows)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of a comparison with a baseline."""
    group = parser.add_argument_group("comparison with a baseline; exits 1 where a figure got worse")
    group.add_argument("--against", metavar="SUMMARY", help="an earlier summary.json, or its folder")
    group.add_argument(
        "--tolerance",
        nargs="+",
        action="extend",
        default=[],
        metavar="FIGURE=VALUE",
        help="how much worse a figure may be, as summary.json has it or as a share (mssd=0.02 found=1%%)",
    )
    default = f"{DEFAULT}, durations {TIMES}".replace("%", "%%")
    text = f"the same for all others (default: {default})"
    group.add_argument("--default-tolerance", default="", metavar="VALUE", help=text)


def given(args: argparse.Namespace, out: Path | None = None) -> tuple[Summary, dict[str, str]]:
    """The baseline and the tolerances by figure, or OutcomeError: a long evaluation asks before it begins.

    out: the folder that it will write; with a summary compared to itself nothing is ever worse.
    """
    if out is not None and Path(args.against).resolve() in (out.resolve(), out.resolve() / SUMMARY):
        found = f"{args.against}, which would be written over"
        raise OutcomeError(f"against: wanted a copy or another --out, found {found}")
    pairs = [text.rpartition("=") for text in args.tolerance]
    for name, _, value in pairs:
        if not name or not value:
            raise OutcomeError(f"tolerance: wanted FIGURE=VALUE, found {name or value!r}")
    for text in (*(value for _, _, value in pairs), args.default_tolerance or DEFAULT):
        parse_tolerance(text)
    return read_summary(args.against), {name: value for name, _, value in pairs}


def check(args: argparse.Namespace, now: Summary) -> int:
    """Print what changed since ``args.against``; 1 if something got worse than allowed or is gone, else 0."""
    baseline, tolerances = given(args)
    found = changes(baseline, now, tolerances, args.default_tolerance)
    bad = [change.figure for change in found if change.verdict in BAD]
    print(f"\nAgainst {args.against}:\n{change_table(found)}")
    if bad:
        print(f"\n{len(bad)} of {len(found)} figures got worse than allowed: {', '.join(bad)}")
    return WORSE if bad else OK


def _same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))
