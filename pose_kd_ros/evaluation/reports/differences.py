"""Figures of several bundles on the same images, side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...provenance import write_whole


def table(names: Sequence[str], columns: Sequence[Mapping[str, float | None]]) -> str:
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
