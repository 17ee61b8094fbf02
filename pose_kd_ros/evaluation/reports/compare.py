# SPDX-License-Identifier: Apache-2.0
"""Several bundles on the same images: what each costs and how well it sees, and which are worth choosing."""

from __future__ import annotations

import argparse
import importlib
import json
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ...provenance import write_whole
from ..console import DAMAGED, OK, text_table
from ..outcome import Outcome, OutcomeError, plain, read_outcome
from . import plots
from .meaning import NEITHER, is_time, meaning
from .page import HEADLINE, refusing, render

COSTS = {"size_mb": "size, MB", "parameters": "parameters", "gflop": "GFLOP"}


@dataclass(frozen=True)
class Row:
    """One bundle.

    costs: by the names of COSTS, NaN where unknown. p50_ms, p95_ms: of a frame, here. figures: those that all
    bundles have. on_front: no other bundle is as fast and as good, and better in one of the two.
    """

    name: str
    costs: dict[str, float]
    p50_ms: float
    p95_ms: float
    figures: dict[str, float]
    on_front: bool


def front(cost, gain) -> np.ndarray:
    """Which of (N,) points no other dominates: (N,) bool. Less cost and more gain are better; NaN never is on
    the front, equal points are on it together."""
    cost, gain = np.asarray(cost, float), np.asarray(gain, float)
    as_good = (cost[:, None] <= cost) & (gain[:, None] >= gain)
    dominated = (as_good & ~as_good.T).any(0)
    return ~dominated & np.isfinite(cost) & np.isfinite(gain)


def rows_of(outcomes: Sequence[Outcome], accuracy: str) -> list[Row]:
    """One row a bundle, fastest first; ``accuracy`` names the figure that the front is about.

    Raises OutcomeError where the bundles did not see the same images.
    """
    for field in ("kind", "source", "frames"):
        found = {getattr(outcome.summary, field): outcome.folder for outcome in outcomes}
        if len(found) > 1:
            (one, here), (other, there), *_ = found.items()
            both = f"{one!r} in {here}, {other!r} in {there}"
            raise OutcomeError(f"compare: {field}: wanted the same, found {both}")
    names = shared_figures(outcomes)
    if accuracy not in names:
        known = ", ".join(names)
        raise OutcomeError(f"compare: accuracy: wanted one that all have, {known}, found {accuracy!r}")
    times = [np.percentile(o.latencies_ms or [math.nan], (50, 95)) for o in outcomes]
    gains = [-meaning(accuracy).loss(o.summary.figures[accuracy]) for o in outcomes]
    best = front([t[0] for t in times], gains)
    rows = [
        Row(
            name,
            {key: float(outcome.summary.bundle.get(key) or math.nan) for key in COSTS},
            float(p50),
            float(p95),
            {name: outcome.summary.figures[name] for name in names},
            bool(on_front),
        )
        for name, outcome, (p50, p95), on_front in zip(titles(outcomes), outcomes, times, best)
    ]
    return sorted(rows, key=lambda row: row.p50_ms)


def titles(outcomes: Sequence[Outcome]) -> list[str]:
    """The bundles' names; where two are the same, with their folders'."""
    names = [outcome.summary.name for outcome in outcomes]
    return [n if names.count(n) == 1 else f"{n} ({o.folder.resolve().name})" for n, o in zip(names, outcomes)]


def shared_figures(outcomes: Sequence[Outcome]) -> list[str]:
    """Names of figures that all have, some of them measured, and that can be better or worse, durations
    aside; those of HEADLINE first."""
    every = [outcome.summary.figures for outcome in outcomes]
    names = [n for n in every[0] if all(n in figures for figures in every)]
    names = [n for n in names if not all(math.isnan(figures[n]) for figures in every)]
    shared = [n for n in names if meaning(n).better != NEITHER and not is_time(n)]
    return sorted(shared, key=lambda n: HEADLINE.index(n) if n in HEADLINE else len(HEADLINE))


def cells(rows: Sequence[Row], called: Callable[[str], str]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table, as people read them; ``called``: from a
    figure's name to what is above it."""
    names = list(rows[0].figures)
    head = ["bundle", *COSTS.values(), "median, ms", "95 %, ms", *map(called, names), "front"]
    shown = [
        [
            row.name,
            *(f"{v:,.0f}" if v >= 1000 else f"{v:.3g}" for v in row.costs.values()),
            f"{row.p50_ms:.3g}",
            f"{row.p95_ms:.3g}",
            *(meaning(n).show(row.figures[n]) for n in names),
            "yes" if row.on_front else "",
        ]
        for row in rows
    ]
    return head, shown


def write(out, outcomes: Sequence[Outcome], accuracy: str) -> list[Row]:
    """Write OUT/compare.html and OUT/compare.json; returns the rows."""
    rows = rows_of(outcomes, accuracy)
    known = meaning(accuracy)
    plot = plots.pareto(
        [row.name for row in rows],
        [row.p50_ms for row in rows],
        [known.factor * row.figures[accuracy] for row in rows],
        np.array([row.on_front for row in rows]),
        "median time per frame, ms",
        f"{known.text}, {known.unit}".rstrip(", "),
    )
    head, shown = cells(rows, lambda name: meaning(name).text)
    summary = outcomes[0].summary
    environments = {
        name: o.summary.environment.get("cpu", "unknown") for name, o in zip(titles(outcomes), outcomes)
    }
    title = f"Bundles on {summary.source}"
    parts = {"head": head, "rows": shown, "plot": plot, "environments": environments}
    content = render("compare.html", title=title, summary=summary, **parts)
    write_whole(Path(out) / "compare.html", content)
    document = {"schema": 1, "source": summary.source, "accuracy": accuracy}
    bundles = {"bundles": [asdict(row) for row in rows]}
    write_whole(Path(out) / "compare.json", json.dumps(plain(document | bundles), indent=1) + "\n")
    return rows


def evaluate(bundle: Path, out: Path, args: argparse.Namespace) -> Path:
    """Evaluate one bundle as ``evaluate`` does; returns its folder."""
    data = ["--bop", args.bop] if args.bop else [args.bag]
    module = importlib.import_module(f"pose_kd_ros.evaluation.{'run_bop' if args.bop else 'run_bag'}")
    parser = argparse.ArgumentParser(prog="evaluate")
    module.add_arguments(parser)
    options = [*data, "--bundle", str(bundle), "--out", str(out), *shlex.split(args.options)]
    code = module.main(parser.parse_args(options))
    if code not in (OK, DAMAGED):
        raise OutcomeError(f"compare: exit code of {bundle}: wanted {OK} or {DAMAGED}, found {code}")
    return out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``compare BUNDLE... (--bop FOLDER | --bag BAG)`` or ``compare --folders OUT OUT ...``."""
    parser.add_argument("bundles", nargs="*", metavar="BUNDLE", type=Path, help="bundles to evaluate")
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--bop", metavar="FOLDER", help="a BOP data set")
    data.add_argument("--bag", metavar="BAG", help="a recording")
    data.add_argument("--folders", nargs="+", metavar="OUT", help="evaluations that are there already")
    parser.add_argument("--out", type=Path, default=Path("comparison"), metavar="DIR")
    text = "what to weigh against time (default: AR or the like)"
    parser.add_argument("--accuracy", metavar="FIGURE", help=text)
    parser.add_argument(
        "--options", default="", metavar="TEXT", help="further options of each evaluation: '--truth tf:cube'"
    )


def main(args: argparse.Namespace) -> int:
    """Evaluate what has to be, write and print the comparison; 0, or 2 where something is refused."""
    return refusing(lambda: compare(args))


def compare(args: argparse.Namespace) -> int:
    """``main``, with errors raised."""
    if bool(args.bundles) == bool(args.folders):
        wanted = "bundles with --bop or --bag, or --folders alone"
        raise OutcomeError(f"compare: wanted {wanted}, found both or neither")
    names = [bundle.resolve().name for bundle in args.bundles]
    if len(set(names)) < len(names):
        raise OutcomeError(f"compare: wanted bundles of different names, found {', '.join(names)}")
    folders = args.folders or [evaluate(b, args.out / n, args) for b, n in zip(args.bundles, names)]
    outcomes = [read_outcome(folder) for folder in folders]
    accuracy = args.accuracy or next(iter(shared_figures(outcomes)), "")
    head, shown = cells(write(args.out, outcomes, accuracy), str)
    print(f"{text_table(head, shown)}\n\n{args.out / 'compare.html'}")
    return 0


def difference_table(names: Sequence[str], columns: Sequence[Mapping[str, float | None]]) -> str:
    """Figures as aligned text, a column a bundle; of two also the difference, second minus first."""
    heads = [*names, "difference"] if len(names) == 2 else list(names)
    lines = [["", *heads]]
    for name in dict.fromkeys(key for column in columns for key in column):
        values = [column.get(name) for column in columns]
        if len(values) == 2:
            values.append(difference(*values))
        lines.append([name, *("-" if value is None else f"{value:.5g}" for value in values)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rows = (
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:]))])
        for line in lines
    )
    return "\n".join(row.rstrip() for row in rows)


def difference(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else second - first


def write_differences(out: Path, names: Sequence[str], summaries: Sequence[dict]) -> None:
    """OUT/differences.json: each figure of all bundles, the first one's subtracted from the others'."""
    first, *others = (summary["figures"] for summary in summaries)
    rows = {
        name: {
            "values": [value, *(o.get(name) for o in others)],
            "differences": [difference(value, o.get(name)) for o in others],
        }
        for name, value in first.items()
    }
    document = {"schema": 1, "bundles": list(names), "figures": rows}
    write_whole(out / "differences.json", json.dumps(document, indent=1) + "\n")
