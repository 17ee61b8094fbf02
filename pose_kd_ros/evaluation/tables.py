"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def text_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Aligned plain text: the first column to the left, the others to the right; a rule below the head."""
    lines = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in lines) for i in range(len(head))]
    lines.insert(1, ["-" * width for width in widths])
    aligned = [
        "  ".join(cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(zip(row, widths)))
        for row in lines
    ]
    return "\n".join(line.rstrip() for line in aligned)
