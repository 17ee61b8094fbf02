# SPDX-License-Identifier: Apache-2.0
"""docs/results.md from docs/results/*.json: every table has its figures in one place, and no figure is typed.

python -m bench.tables            write docs/results.md
python -m bench.tables --check    exit 1 if it does not say what the JSON files say
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"
COMMON = (
    "name",
    "method",
    "network",
    "family",
    "dataset",
    "split",
    "seed",
    "steps",
    "status",
    "date",
    "commit",
    "hardware",
)
SHOWN = ("name", "dataset", "split")


def table(rows: list[dict]) -> str:
    """A Markdown table: name, data set and split, then every figure that any row has. rows: measured
    ones."""
    figures = list(dict.fromkeys(key for row in rows for key in row if key not in COMMON))
    head = (*SHOWN, *(figures or ["status"]))
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [str(row[key]) for key in SHOWN]
        cells += [f"{row[key]:.4g}" if key in row else "" for key in figures]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def provenance(rows: list[dict]) -> str:
    """Where the rows come from, once for each combination that occurs."""
    seen = dict.fromkeys(
        (r["date"], r["commit"], r["hardware"], r["network"], r["method"], r["seed"], r["steps"])
        for r in rows
        if r["status"] == "measured"
    )
    return "\n".join(
        f"- {date}, commit {commit}, {hardware}; network {network}, {method=}, {seed=}, {steps} steps"
        for date, commit, hardware, network, method, seed, steps in seen
    )


def sections(content: list[dict]) -> list[list[dict]]:
    """Rows with the same figures share a table, so that synthetic and real ones never share a column by
    accident."""
    groups: dict[tuple, list[dict]] = {}
    for row in content:
        kind = "synthetic" if "synthetic" in row["split"] else "real"
        key = (
            kind,
            tuple(sorted(k for k in row if k not in COMMON)),
        )
        groups.setdefault(key, []).append(row)
    return list(groups.values())


def page() -> str:
    """The whole page."""
    parts = [(DOCS / "results" / "introduction.md").read_text(encoding="utf-8").rstrip()]
    for path in sorted((DOCS / "results").glob("*.json")):
        rows = json.loads(path.read_text(encoding="utf-8"))
        content = [row for row in rows if row["status"] == "measured"]
        note = path.with_suffix(".md")
        parts.append(note.read_text(encoding="utf-8").rstrip() if note.exists() else f"## {path.stem}")
        parts += [table(rows) for rows in sections(content)] + [provenance(content)]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    target, wanted = DOCS / "results.md", page()
    if "--check" in sys.argv:
        raise SystemExit(
            0
            if target.exists() and target.read_text(encoding="utf-8") == wanted
            else f"{target} is out of date; run python -m bench.tables"
        )
    target.write_text(wanted, encoding="utf-8")


if __name__ == "__main__":
    main()
