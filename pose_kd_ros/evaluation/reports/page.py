# SPDX-License-Identifier: Apache-2.0
"""An evaluation as a page for people: OUT/report.html, which needs nothing beside itself."""

from __future__ import annotations

import argparse
import base64
import math
import sys
from collections.abc import Callable
from pathlib import Path

import jinja2
import numpy as np

from ...provenance import write_whole
from ..console import text_table
from ..frame import Frame
from ..outcome import Outcome, OutcomeError, Summary, read_outcome
from . import baseline, plots, worst
from .meaning import ARROWS, is_time, meaning

REPORT = "report.html"
HEADLINES = 4
MOST_COLUMNS = 8  # of objects in the terminal
Dots = tuple[list[float], list[float]]  # x and y
HEADLINE = (
    "ar", "mssd", "mspd", "add_s_01d", "mssd_01d", "found", "found_rate", "median_translation_m",
    "median_rotation_rad", "edge_agreement", "jitter_translation_m", "latency_p50_ms", "ms_per_image",
)  # fmt: skip
ERRORS = {
    "mssd_d": ("MSSD", "% of the diameter", 100.0),
    "mspd_px": ("MSPD", "pixels", 1.0),
    "translation_m": ("Translation error", "mm", 1000.0),
    "rotation_rad": ("Rotation error", "degrees", 180 / math.pi),
}


def page(outcome: Outcome) -> str:
    """The report as HTML."""
    summary = outcome.summary
    names = {int(key): entry["class_name"] for key, entry in summary.objects.items()}
    chosen = worst.choose(outcome.frames, names=names)
    return render(
        "report.html",
        title=f"{summary.source}, {summary.name}",
        summary=summary,
        headlines=headlines(summary),
        figures=[(name, meaning(name), value) for name, value in summary.figures.items()],
        objects=object_table(summary),
        plots=plots_of(outcome),
        with_truth=any(frame.truth for frame in outcome.frames),
        stages=stage_table(outcome.frames),
        worst=[(w, data_uri(outcome.overlay(w.frame))) for w in chosen],
    )


def render(template: str, **content) -> str:
    """Fill in one of the templates; what comes from data is escaped."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(arrows=ARROWS, meaning=meaning, **content)


def headlines(summary: Summary) -> list[tuple]:
    """The few figures that stand on top."""
    known = [name for name in HEADLINE if not math.isnan(summary.figures.get(name, math.nan))]
    times = [name for name in known if is_time(name)][:1]
    first = [name for name in known if not is_time(name)][: HEADLINES - len(times)]
    return [(meaning(name), summary.figures[name]) for name in first + times]


def object_table(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """Names of all objects' figures; rows of id, class name and those figures as people read them."""
    names = list(dict.fromkeys(n for o in summary.objects.values() for n in o if n != "class_name"))
    rows = [
        [key, entry["class_name"], *(meaning(n).show(entry.get(n, math.nan)) for n in names)]
        for key, entry in summary.objects.items()
    ]
    return names, rows


def stage_table(frames: tuple[Frame, ...]) -> list[tuple[str, str, str]]:
    """(stage, median, 95th percentile) in ms, in the order of work; frames without a stage do not count."""
    times: dict[str, list[float]] = {}
    for frame in frames:
        for name, ms in frame.stages_ms.items():
            times.setdefault(name, []).append(ms)
    show = meaning("stage_ms").show
    return [
        (name, show(float(np.percentile(ms, 50))), show(float(np.percentile(ms, 95))))
        for name, ms in times.items()
    ]


def plots_of(outcome: Outcome) -> list[tuple[str, str]]:
    """(heading, SVG) of all there is something to plot of."""
    found = [
        ("Covariance" if "coverage" in curves else "Recall", plots.shares(curves, label))
        for label, curves in curves_by_unit(outcome.summary.curves).items()
    ]
    found += [(name, plots.histogram(values, name, unit)) for name, unit, values in errors_of(outcome)]
    if not outcome.frames:
        return found
    x, label = abscissa(outcome)
    found.append(("Latency", plots.latency(x, outcome.latencies_ms, label)))
    if outcome.summary.kind == "bag":
        found += over_time(outcome, x, label)
    return found


def curves_by_unit(curves: dict[str, dict]) -> dict[str, dict[str, dict]]:
    """Curves by what is below their plot: those over thresholds of one unit ("MSSD, diameters") share one."""
    plots_by_label: dict[str, dict[str, dict]] = {}
    for name, curve in curves.items():
        quantity, comma, unit = curve["x_label"].partition(", ")
        plots_by_label.setdefault(f"threshold, {unit}" if comma else quantity, {})[name] = curve
    return plots_by_label


def errors_of(outcome: Outcome) -> list[tuple[str, str, list[float]]]:
    """(name, unit, finite errors of instances that count) of each error that was measured."""
    errors = [e for frame in outcome.frames for e in frame.visible_errors if e.estimate is not None]
    found = []
    for key, (name, unit, factor) in ERRORS.items():
        values = [getattr(e, key) for e in errors]
        values = [factor * value for value in values if value is not None and math.isfinite(value)]
        found += [(name, unit, values)] if values else []
    return found


def abscissa(outcome: Outcome) -> tuple[np.ndarray, str]:
    """Seconds of a bag, else the number of the image."""
    if outcome.summary.kind == "bop":
        return np.arange(len(outcome.frames)), "image"
    stamps = np.array([frame.stamp_ns for frame in outcome.frames])
    return (stamps - stamps[0]) / 1e9, "time, s"


def over_time(outcome: Outcome, x: np.ndarray, label: str) -> list[tuple[str, str]]:
    """Scores of a bag's measured estimates; with truth also their errors; by object."""
    found = []
    scores: dict[str, Dots] = {}
    errors: dict[str, Dots] = {}
    for at, frame in zip(x, outcome.frames):
        for one in frame.measured_estimates:
            add_point(scores, outcome, one.object_id, at, one.score)
        for error in frame.visible_errors:
            if error.mssd_d is not None:
                add_point(errors, outcome, error.object_id, at, 100 * error.mssd_d)
    if scores:
        found.append(("Score over time", plots.over_time(scores, label, "score")))
    if errors:
        found.append(("Error over time", plots.over_time(errors, label, "MSSD, % of the diameter")))
    return found


def add_point(series: dict, outcome: Outcome, object_id: int, x: float, y: float) -> None:
    name = outcome.summary.objects.get(str(object_id), {}).get("class_name", f"object {object_id}")
    xs, ys = series.setdefault(name, ([], []))
    xs.append(x)
    ys.append(y)


def data_uri(path: Path) -> str:
    """The picture itself as an address; empty where there is none."""
    return "data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode() if path.is_file() else ""


def terminal_table(summary: Summary) -> str:
    """The figures as aligned text: a line a figure, a column for all objects and, of several, for each."""
    objects = list(summary.objects.values()) if 1 < len(summary.objects) <= MOST_COLUMNS else []
    names = dict.fromkeys([*summary.figures, *(name for entry in objects for name in entry)])
    names.pop("class_name", None)
    columns = [summary.figures, *objects]
    rows = [(name, *(meaning(name).show(c[name]) if name in c else "" for c in columns)) for name in names]
    head = f"{summary.name} on {summary.source}: {summary.frames} frames"
    parts = [head, text_table(("figure", "all", *(entry["class_name"] for entry in objects)), rows)]
    if summary.faults:
        faults = [(message, str(count)) for message, count in summary.faults.items()]
        parts.append(text_table(("fault", "times"), faults))
    return "\n\n".join(parts)


def write_report(out) -> Summary:
    """Write OUT/report.html; returns what it is about. Raises OutcomeError."""
    outcome = read_outcome(out)
    write_whole(outcome.folder / REPORT, page(outcome))
    return outcome.summary


def finish(out, args: argparse.Namespace) -> int:
    """What an evaluation ends with: OUT/report.html, a table, a baseline's verdict (1: a regression)."""
    summary = write_report(out)
    print(f"{terminal_table(summary)}\n\n{Path(out) / REPORT}")
    return baseline.check(args, summary) if args.against else 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``report OUT``, with the options of a comparison with a baseline."""
    parser.add_argument("out", metavar="OUT", help="the folder of an evaluation")
    baseline.add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Make OUT/report.html again; 0, or 1 for a regression, or 2 where something cannot be read."""
    return refusing(lambda: finish(args.out, args))


def refusing(work: Callable[[], int]) -> int:
    """The work's exit code; 2, with the reason on stderr, where it is refused."""
    try:
        return work()
    except OutcomeError as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 2
