# SPDX-License-Identifier: Apache-2.0
"""docs/results.md says what the JSON files say, and each row has the keys that all share."""

import json

import pytest

from bench.tables import COMMON, DOCS, page

FILES = sorted((DOCS / "results").glob("*.json"))


def test_the_page_is_made_from_the_files():
    assert (DOCS / "results.md").read_text(encoding="utf-8") == page()


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_rows_have_the_common_keys_and_figures_only_where_measured(path):
    for row in json.loads(path.read_text(encoding="utf-8")):
        assert set(COMMON) <= set(row), row["name"]
        figures = {k: v for k, v in row.items() if k not in COMMON}
        assert all(isinstance(v, (int, float)) for v in figures.values()), row["name"]
        assert (row["status"] == "measured") == bool(figures), row["name"]
        assert row["status"] in ("measured", "not run")
