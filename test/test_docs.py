# SPDX-License-Identifier: Apache-2.0
"""The documents' links lead somewhere, and the README's Python runs as written."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.S | re.M)
LINK = re.compile(r"\]\(([^)\s]+)\)")
MADE_INTO = {
    ROOT / "docs" / "results": ROOT / "docs"
}  # templates: their links are those of the page made of them


def anchors(page):
    """Yield what GitHub makes of a page's headings."""
    for heading in re.findall(
        r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M), re.M
    ):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    folder = MADE_INTO.get(page.parent, page.parent)
    for link in LINK.findall(CODE.sub("", page.read_text())):
        if link.startswith(("http:", "https:", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (folder / path).resolve() if path else page
        assert target.exists(), f"{link}: no such file"
        assert not anchor or anchor in anchors(target), f"{link}: no such heading"


def test_the_readmes_python_finds_the_cube():
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    name, score = done.stdout.splitlines()[0].split()
    assert name == "cube" and float(score) > 0.5
    pose = [float(number) for number in re.findall(r"-?\d+\.\d*(?:e-?\d+)?", done.stdout.split("\n", 1)[1])]
    assert len(pose) == 16 and pose[11] == pytest.approx(0.57, abs=0.02)  # metres in front of the camera
