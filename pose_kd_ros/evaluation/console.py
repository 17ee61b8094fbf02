# SPDX-License-Identifier: Apache-2.0
"""What the commands end with and print; docs/evaluation.md and docs/reports.md name the exit codes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

OK = 0
WORSE = 1  # than a baseline allows
REFUSED = 2
DAMAGED = 3  # data, and what could be read of it was evaluated
BROKEN = 4  # this program: a traceback says where
STOPPED = 130  # by Ctrl-C


def text_table(head: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """Aligned plain text: the columns ``left`` to the left, others to the right; a rule below the head."""
    lines = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in lines) for i in range(len(head))]
    lines.insert(1, ["-" * width for width in widths])
    places = [f"{{:{'<' if i in left else '>'}{width}}}" for i, width in enumerate(widths)]
    return "\n".join("  ".join(places).format(*row).rstrip() for row in lines)
