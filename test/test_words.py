# SPDX-License-Identifier: Apache-2.0
"""Errors say "<where>: wanted <x>, found <y>", everywhere the same two words in the same order; comments and
docstrings do without words that a reader who learnt English at school has to look up or read twice."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("pose_kd_ros", "training", "bench", "standalone")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
ERRORS = re.compile(r".*Error|Unusable\w+|Died|Missing|Unavailable|Failed")
OTHER_FORMS = re.compile(r"\bwants?\b|\bgot\b|\bfound\b.*\bwanted\b|\bwanted\b(?!.*\bfound\b)", re.S)
ODD = re.compile(r"\b(anew|likewise|the very|of (its|their) own|what flies|judge[ds]?)\b", re.I)


def prose(text):
    """Yield the comments and the strings that stand alone, which are docstrings, of a file."""
    yield from (
        t.string for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type == tokenize.COMMENT
    )
    for node in ast.walk(ast.parse(text)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            yield " ".join(node.value.value.split())


def raised(path):
    """Yield line and text of what a file raises; values in the text are left out."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            name = getattr(node.exc.func, "id", getattr(node.exc.func, "attr", ""))
            texts = [one for argument in node.exc.args for one in ast.walk(argument)]
            text = "".join(t.value for t in texts if isinstance(t, ast.Constant) and isinstance(t.value, str))
            if ERRORS.fullmatch(name):
                yield node.lineno, text


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_errors_say_what_was_wanted_and_what_was_found(path):
    assert [found for found in raised(path) if OTHER_FORMS.search(found[1])] == []


@pytest.mark.parametrize("text", ["wants 3", "wanted 3, got 2", "found 2, wanted 3", "wanted 3"])
def test_other_forms_are_seen(text):
    assert OTHER_FORMS.search(text) and not OTHER_FORMS.search("size: wanted 3, found 2")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_comments_and_docstrings_are_plain(path):
    assert [text for text in prose(path.read_text()) if ODD.search(text)] == []


@pytest.mark.parametrize("text", ['"""Runs in a process\nof its own."""', "x = 1  # judged anew"])
def test_odd_words_are_seen(text):
    assert [text for text in prose(text) if ODD.search(text)]
