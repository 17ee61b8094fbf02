# SPDX-License-Identifier: Apache-2.0
"""Errors say "<where>: wanted <x>, found <y>", everywhere the same two words in the same order."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "pose_kd_ros"
ERRORS = re.compile(r".*Error|Unusable\w+|Died")
OTHER_FORMS = re.compile(r"\bwants?\b|\bgot\b|\bfound\b.*\bwanted\b|\bwanted\b(?!.*\bfound\b)", re.S)


def raised(path):
    """Yield line and text of what a file raises; values in the text are left out."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            name = getattr(node.exc.func, "id", getattr(node.exc.func, "attr", ""))
            texts = [one for argument in node.exc.args for one in ast.walk(argument)]
            text = "".join(t.value for t in texts if isinstance(t, ast.Constant) and isinstance(t.value, str))
            if ERRORS.fullmatch(name):
                yield node.lineno, text


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_errors_say_what_was_wanted_and_what_was_found(path):
    assert [found for found in raised(path) if OTHER_FORMS.search(found[1])] == []


@pytest.mark.parametrize("text", ["wants 3", "wanted 3, got 2", "found 2, wanted 3", "wanted 3"])
def test_other_forms_are_seen(text):
    assert OTHER_FORMS.search(text) and not OTHER_FORMS.search("size: wanted 3, found 2")
