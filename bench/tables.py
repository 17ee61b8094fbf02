# SPDX-License-Identifier: Apache-2.0
"""Write docs/results.md and the README's figures from the files of docs/results/; no figure is typed by hand.

The text is in page.md and headline.md. In it, ``{cube; row; figure}`` is replaced by a figure of a row of
cube.json, and the block below by a table. The first line of the block names the columns, each other line a
row: a label, then the row's name and, if this name occurs twice, ``@`` and the data set.

    ```table cube
    what <- found, mssd_01d
    as the node runs it <- recording, followed
    ```

python -m bench.tables            write both
python -m bench.tables --check    exit 1 if one of the two is out of date
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
COMMON = (
    "name",
    "method",
    "network",
    "family",
    "dataset",
    "split",
    "seed",
    "steps",
    "date",
    "commit",
    "hardware",
)
MOST_COLUMNS = 8
INLINE = re.compile(r"\{(\w+); ([^;{}]+); (\w+)\}")
BLOCK = re.compile(r"^```table (\w+)\n(.*?)^```\n", re.S | re.M)
README_PART = re.compile(r"(<!-- figures: .* -->\n).*?(<!-- end of figures -->)", re.S)


def number(digits: int) -> Callable[[float], str]:
    return lambda value: f"{value:.{digits}f}"


def percent(value: float) -> str:
    whole = value in (0, 1) or 0.1 <= value < 0.985  # 99.5 % must not become 100 %
    return f"{100 * value:.{0 if whole else 1}f} %"


COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {  # figure: its title, and how it is written
    "coverage_95": ("inside the 95 % ellipsoid", percent),
    "cpu_ms": ("ms", number(0)),
    "crops_per_second": ("crops/s", number(1)),
    "dropped": ("frames dropped", number(0)),
    "evaluation_s": ("evaluated in s", number(1)),
    "false_positives_per_image": ("false alarms per image", number(2)),
    "flow_px": ("against the flow, px", number(2)),
    "found": ("found", percent),
    "found_every_pose": ("found, without threshold", percent),
    "frames": ("frames", number(0)),
    "frames_processed": ("frames processed", number(0)),
    "gflop": ("GFLOP", number(1)),
    "gflop_ratio": ("times the plain GFLOP", number(1)),
    "images": ("images", number(0)),
    "images_per_second": ("images/s", number(1)),
    "instances": ("objects in them", number(0)),
    "mean_every_pose": ("mean recall, without threshold", percent),
    "median_rotation_rad": ("rotation error", lambda value: f"{math.degrees(value):.1f}°"),
    "jitter_rotation_rad": ("jitter, degrees", lambda value: f"{math.degrees(value):.1f}"),
    "jitter_translation_m": ("jitter, mm", lambda value: f"{1e3 * value:.1f}"),
    "jitter_translation_p95_m": ("its 95th percentile, mm", lambda value: f"{1e3 * value:.1f}"),
    "median_translation_m": ("position error, mm", lambda value: f"{1e3 * value:.0f}"),
    "ms": ("ms", number(0)),
    "ms_per_image": ("ms per image", number(0)),
    "mspd": ("MSPD recall", percent),
    "mssd_recall_of_found": ("MSSD recall of these", percent),
    "mssd": ("MSSD recall", percent),
    "mssd_01d": ("within 0.1 d", percent),
    "network_ms_p50": ("network, ms", number(1)),
    "node_overhead_ms_p50": ("rest of the node, ms", number(1)),
    "parameters_m": ("parameters, million", number(1)),
    "peak_memory_mb": ("memory, MB", number(0)),
    "precision_05d": ("precision", percent),
    "poses": ("poses", number(0)),
    "pull_error": ("gradient error", lambda value: f"{value:.2g}"),
    "recorded_s": ("recorded in s", number(1)),
    "refine_ms": ("ms", number(1)),
    "refused": ("refused", percent),
    "right_by_edges": ("right by edges", percent),
    "solved": ("problems solved", percent),
    "stamp_to_tf_ms_p50": ("stamp to TF, ms", number(0)),
    "stamp_to_tf_ms_p95": ("95th percentile, ms", number(0)),
    "step_ms": ("ms a step", number(0)),
    "time_ratio": ("times the plain time", number(1)),
    "times_faster_than_geomloss_09": ("times as fast as geomloss", number(1)),
    "times_the_plain_step": ("times the plain step", number(1)),
    "translation_p90_m": ("90th percentile, mm", lambda value: f"{1e3 * value:.0f}"),
    "transport_share_of_step": ("transport's share", percent),
    "val_vote": ("vote loss", number(3)),
    "val_vote_1300": ("vote loss", number(3)),
    "worse_001d": ("worse by 0.01 d", percent),
}


def rows_of(file: str) -> list[dict]:
    return json.loads((RESULTS / f"{file}.json").read_text(encoding="utf-8"))


def row_of(file: str, wanted: str) -> dict:
    """Return the one row of a file with a name, or with ``name @ data set``. Raises KeyError."""
    name, _, dataset = wanted.partition(" @ ")
    found = [row for row in rows_of(file) if row["name"] == name and dataset in ("", row["dataset"])]
    if len(found) != 1:
        raise KeyError(f"{file}.json: {wanted!r}: wanted one row, found {len(found)}")
    return found[0]


def written(row: dict, figure: str) -> str:
    return COLUMNS[figure][1](row[figure]) if figure in row else ""


def table(file: str, lines: list[str]) -> str:
    """Return a Markdown table.

    Raises ValueError for too many columns, and for real rows beside synthetic ones.
    """
    (title, names), *wanted = (line.split(" <- ") for line in lines)
    figures = names.split(", ")
    rows = [row_of(file, name) for _, name in wanted]
    if len(figures) >= MOST_COLUMNS:
        raise ValueError(f"{file}.json: columns: wanted at most {MOST_COLUMNS}, found {len(figures) + 1}")
    if len({"synthetic" in row["split"] for row in rows}) > 1:
        raise ValueError(f"{file}.json: wanted real or synthetic rows, found both")
    cells = [[title, *(COLUMNS[figure][0] for figure in figures)]]
    cells += [[label, *(written(row, f) for f in figures)] for (label, _), row in zip(wanted, rows)]
    head, *body = ("| " + " | ".join(line) + " |" for line in cells)
    return "\n".join([head, "|" + "---|" * len(cells[0]), *body]) + "\n"


def provenance(section: str) -> str:
    """Return when, at which commits and on which processors a section's rows were measured; empty if none."""
    names = [(found[1], found[2]) for found in INLINE.finditer(section)]
    for found in BLOCK.finditer(section):
        names += [(found[1], line.split(" <- ")[1]) for line in found[2].splitlines()[1:]]
    commits: dict[tuple, dict] = {}
    for row in (row_of(*name) for name in names):
        commits.setdefault((row["hardware"], row["date"]), {})[row["commit"][:7]] = None
    measured = [f"{date} on {hardware} ({', '.join(found)})" for (hardware, date), found in commits.items()]
    return f"\n*Measured {'; '.join(measured)}.*\n" if measured else ""


def filled(template: str) -> str:
    """Return a text with its tables and figures filled in; below each section, when they were measured."""
    sections = re.split(r"^(?=## )", (RESULTS / template).read_text(encoding="utf-8"), flags=re.M)
    return "\n".join(filled_section(section.rstrip() + "\n") for section in sections)


def filled_section(text: str) -> str:
    filled = BLOCK.sub(lambda found: table(found[1], found[2].splitlines()), text)
    filled = INLINE.sub(lambda found: written(row_of(found[1], found[2]), found[3]), filled)
    return filled + provenance(text)


def pages() -> dict[Path, str]:
    """Return the text that each file should have."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    part = filled("headline.md")
    return {
        ROOT / "docs" / "results.md": filled("page.md"),
        readme: README_PART.sub(lambda found: found[1] + part + found[2], text),
    }


def main() -> None:
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text("utf-8") != text]
    if "--check" in sys.argv:
        raise SystemExit(f"{stale[0]} is out of date; run python -m bench.tables" if stale else 0)
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
