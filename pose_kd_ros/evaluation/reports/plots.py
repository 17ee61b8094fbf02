# SPDX-License-Identifier: Apache-2.0
"""Plots as SVG for a page: their colours are the page's variables, so one plot serves light and dark."""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

SIZE = (4.4, 2.7)  # inches, so that text of 10 points is as large as the page's on a phone
INK, FAINT = "#010101", "#020202"
LINES = ("#0a0001", "#0a0002", "#0a0003", "#0a0004", "#0a0005", "#0a0006")
VARIABLES = {INK: "--ink", FAINT: "--faint"} | {color: f"--line{i}" for i, color in enumerate(LINES)}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.alpha": 0.3,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "lines.linewidth": 1.8,
}
WINDOWS = 30
MOST_BARS = 24


def shares(curves: dict[str, dict], label: str) -> str:
    """Curves (their x and y by name), whose y are shares, over what ``label`` says."""
    figure, axes = _axes()
    for color, (name, curve) in zip(_colors(), curves.items()):
        axes.plot(curve["x"], 100 * np.asarray(curve["y"], float), color=color, label=name)
    axes.set(xlabel=label, ylabel="%", ylim=(0, 101))
    _legend(axes)
    return svg(figure, f"{', '.join(curves)} over {label}")


def histogram(values: ArrayLike, name: str, unit: str) -> str:
    """Errors (N,), finite: bars up to the 95th percentile; how many are beyond is said below."""
    values = np.asarray(values, float)
    top = float(np.quantile(values, 0.95)) or float(values.max()) or 1.0
    edges = np.linspace(0, top, min(MOST_BARS, max(4, math.ceil(math.sqrt(len(values))))) + 1)
    beyond = int((values > top).sum())
    counts = np.histogram(values, edges)[0]
    figure, axes = _axes()
    axes.bar(edges[:-1], counts, np.diff(edges) * 0.92, align="edge", color=LINES[0])
    median = float(np.median(values))
    axes.axvline(median, color=LINES[1], label=f"median {median:.3g}")
    axes.set(xlabel=f"{unit}, {beyond} beyond {top:.3g}" if beyond else unit, ylabel="poses", xlim=(0, top))
    axes.yaxis.get_major_locator().set_params(integer=True)
    _legend(axes, "upper right")
    return svg(figure, f"histogram of {name}, {unit}")


def latency(x: ArrayLike, ms: ArrayLike, label: str) -> str:
    """Milliseconds (N,) over x (N,): each frame as a dot, median and 95th percentile of WINDOWS windows."""
    x = np.asarray(x, float)
    times = np.asarray(ms, float)
    parts = np.array_split(np.arange(len(x)), min(WINDOWS, max(1, len(x) // 5)))
    middle = [x[part].mean() for part in parts]
    figure, axes = _axes()
    axes.plot(x, times, ".", color=FAINT, markersize=2.5, alpha=0.6)
    high, median = ([np.percentile(times[part], share) for part in parts] for share in (95, 50))
    axes.plot(middle, high, color=LINES[1], label="95th percentile")
    axes.plot(middle, median, color=LINES[0], label="median")
    top = max(1.15 * np.percentile(times, 99.5), 1.05 * max(high))
    axes.set(xlabel=label, ylabel="ms", ylim=(0, top or 1.0))
    _legend(axes)
    return svg(figure, "latency of each frame, with running median and 95th percentile")


def over_time(series: Mapping[str, tuple[Sequence[float], Sequence[float]]], label: str, y_label: str) -> str:
    """Dots (x, y) of each name."""
    figure, axes = _axes()
    for color, (name, (x, y)) in zip(_colors(), series.items()):
        axes.plot(x, y, ".", color=color, markersize=3, label=name)
    axes.set(xlabel=label, ylabel=y_label)
    axes.set_ylim(bottom=0)
    _legend(axes)
    return svg(figure, f"{y_label} over {label}")


def pareto(
    names: Sequence[str], x: ArrayLike, y: ArrayLike, on_front: np.ndarray, x_label: str, y_label: str
) -> str:
    """Points (N,) with their names; those of ``on_front`` (N,) bool joined, the others grey."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    figure, axes = _axes((5.2, 3.2))
    order = [i for i in np.argsort(x) if on_front[i]]
    axes.step(x[order], y[order], where="post", color=LINES[0], alpha=0.6)
    axes.plot(x[~on_front], y[~on_front], "o", color=FAINT)
    axes.plot(x[order], y[order], "o", color=LINES[0], markersize=8)
    for i in map(int, np.flatnonzero(np.isfinite(x) & np.isfinite(y))):
        color = INK if on_front[i] else FAINT
        left = x[i] < (np.nanmin(x) + np.nanmax(x)) / 2
        axes.annotate(
            names[i],
            (x[i], y[i]),
            (7 if left else -7, 6),
            textcoords="offset points",
            color=color,
            ha="left" if left else "right",
        )
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.margins(0.12, 0.15)
    return svg(figure, f"{y_label} against {x_label}")


def svg(figure: Figure, label: str) -> str:
    """The figure as an element of an HTML page, as wide as its place; its ids are its own on the page."""
    stream = io.StringIO()
    plain = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": label}):
        figure.savefig(stream, format="svg", transparent=True, metadata=plain)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'<svg ([^>]*?)width="[^"]*"', r"<svg \1", text, count=1)
    text = re.sub(r'(<svg [^>]*?)height="[^"]*"', r"\1", text, count=1)
    text = text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(label)}" ', 1)
    prefix = re.sub(r"\W+", "-", label)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', text)
    text = re.sub(r'(url\(|href=")#', rf"\1#{prefix}-", text)
    for color, variable in VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    return text


def _axes(size=SIZE):
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        return figure, figure.add_subplot()


def _colors():
    while True:
        yield from LINES


def _legend(axes, place: str = "best") -> None:
    count = len(axes.get_legend_handles_labels()[0])
    axes.legend(loc=place, ncol=1 if count < 4 else 2, fontsize=9, frameon=False, labelcolor=INK)
