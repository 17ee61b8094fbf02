# SPDX-License-Identifier: Apache-2.0
"""The groups of the test run: all files in one of them, and a group that dies says where."""

import os
from collections import Counter
from pathlib import Path

import pytest

from standalone.layout import ROOT
from standalone.run_tests import STAGES, Group, run_group

GROUPS = [group for stage in STAGES for lane in stage for group in lane]
GOOD = "def test_good():\n    assert True\n"
ABORTING = GOOD + "import os\ndef test_dies():\n    os.write(2, b'last words of a driver')\n    os.abort()\n"
FAILING = GOOD + "def test_bad():\n    found = 3\n    assert found == 4\n"


def belongs(path: Path, group: Group) -> bool:
    below = [path.is_relative_to(ROOT / top) for top in group.paths]
    return any(below) and not any(path.is_relative_to(ROOT / top) for top in group.without)


def test_every_file_of_tests_is_in_one_group():
    files = sorted((ROOT / "test").rglob("test_*.py"))
    homes = Counter((path.name, sum(belongs(path, group) for group in GROUPS)) for path in files)
    assert len(files) > 80 and [name for name, count in homes if count != 1] == []


@pytest.mark.parametrize(
    ("text", "floor", "verdict", "told"),
    [
        (GOOD, 1, [], ["1 passed in"]),
        (GOOD, 2, ["mine: 1 tests ran, wanted at least 2: are all of them found?"], ["1 passed in"]),
        (FAILING, 1, ["mine: tests failed; its log is {log}"], ["assert 3 == 4", "1 failed, 1 passed in"]),
        (
            ABORTING,
            1,
            ["mine: ended by SIGABRT in {test}::test_dies; its log is {log}"],
            ["last words of a driver", "Fatal Python error: Aborted", "in test_dies"],
        ),
    ],
)
def test_what_is_said_of_a_group(tmp_path, capsys, text, floor, verdict, told):
    path = tmp_path / "test_mine.py"
    path.write_text(text)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -p no:dash")
    found = run_group(Group("mine", floor, (str(path),)), tmp_path, 1)
    names = {"log": tmp_path / "mine.log", "test": os.path.relpath(path, ROOT)}
    assert found == [line.format(**names) for line in verdict]
    said = capsys.readouterr().out
    assert all(words in said for words in told), said
