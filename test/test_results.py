# SPDX-License-Identifier: Apache-2.0
"""docs/results.md and the README's figures say what the JSON files say; rows share their keys."""

import json

import pytest

from bench.tables import COMMON, RESULTS, pages, table

FILES = sorted(RESULTS.glob("*.json"))


def test_the_pages_are_made_from_the_files():
    for path, text in pages().items():
        assert path.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_rows_have_the_common_keys_and_figures(path):
    for row in json.loads(path.read_text(encoding="utf-8")):
        assert set(COMMON) <= set(row), row["name"]
        figures = {k: v for k, v in row.items() if k not in COMMON}
        assert figures and all(isinstance(v, (int, float)) for v in figures.values()), row["name"]


def test_real_and_synthetic_rows_share_no_table():
    with pytest.raises(ValueError, match="wanted real or synthetic rows, found both"):
        table("cube", ["images <- found", "a <- recording, followed", "b <- held-out renders"])


def test_a_table_has_eight_columns_at_most():
    with pytest.raises(ValueError, match="wanted at most 8, found 9"):
        table("cube", ["images <- " + ", ".join(["found"] * 8), "a <- recording, followed"])
