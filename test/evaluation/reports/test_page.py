# SPDX-License-Identifier: Apache-2.0
import argparse
import json
import re
import shutil
import subprocess
from html import escape
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from pose_kd_ros.evaluation.outcome import OutcomeError, read_frames, read_outcome, read_summary
from pose_kd_ros.evaluation.reports import page as reports_page
from pose_kd_ros.evaluation.reports import plots
from pose_kd_ros.evaluation.reports.meaning import meaning
from pose_kd_ros.evaluation.reports.worst import choose

VOID = {"meta", "img", "br", "link", "input", "hr"}
OVERLAY = (60, 140, 90)  # BGR
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


class Page(HTMLParser):
    """Elements as (tag, attributes); every one closed that was opened; text without markup."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.elements, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        self.text += data


def rebuild(folder, *options: str) -> int:
    parser = argparse.ArgumentParser()
    reports_page.add_arguments(parser)
    return reports_page.main(parser.parse_args([str(folder), *options]))


@pytest.fixture(scope="module")
def built(write_outcome, tmp_path_factory):
    """An evaluation with truth, its overlays made up, and its report."""
    out = write_outcome(tmp_path_factory.mktemp("report"))
    (out / "overlays").mkdir()
    picture = np.full((480, 640, 3), OVERLAY, np.uint8)
    for chosen in choose(read_frames(out / "frames.jsonl")):
        cv2.imwrite(str(out / "overlays" / f"{chosen.frame:06d}.jpg"), picture)
    assert rebuild(out) == 0
    return out


def test_the_page_says_every_figure_object_fault_and_where_it_ran(built):
    page, summary = Page((built / "report.html").read_text()), read_summary(built)
    for name, value in summary.figures.items():
        assert name in page.text and meaning(name).show(value) in page.text
    said = "desk & shelf.mcap", "dragon <5>", "wanted an Image <sensor_msgs>", "a processor", "a1" * 32
    assert all(text in page.text for text in said)
    assert all(stage in page.text for stage in ("network", "decode", "pnp"))


def test_the_page_needs_nothing_beside_itself(built):
    text = (built / "report.html").read_text()
    page = Page(text)
    links = ("src", "href", "xlink:href", "srcset", "data", "action", "poster")
    references = [(tag, a[key]) for tag, a in page.elements for key in links if key in a]
    assert all(value.startswith(("#", "data:image/")) for _, value in references)
    assert [value[:15] for tag, value in references if tag == "img"] == ["data:image/jpeg"] * 6
    assert not {tag for tag, _ in page.elements} & {"script", "link", "iframe", "object"}
    assert "url(http" not in text and "@import" not in text


def test_ids_are_unique_and_what_plots_refer_to_is_there(built):
    page = Page((built / "report.html").read_text())
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    used = {a.get("xlink:href", "#")[1:] for _, a in page.elements} - {""}
    assert len(ids) == len(set(ids)) and used <= set(ids)


def test_the_same_evaluation_gives_the_same_page(built):
    before = (built / "report.html").read_bytes()
    assert rebuild(built) == 0
    assert (built / "report.html").read_bytes() == before


def test_curves_over_one_unit_share_a_plot(built):
    by_unit = reports_page.curves_by_unit(read_summary(built).curves)
    assert {label: list(curves) for label, curves in by_unit.items()} == {
        "threshold, diameters": ["mssd", "add"],
        "threshold, pixels": ["mspd"],
        "share that the covariance promises": ["coverage"],
    }


def test_the_lines_of_the_latency_stay_in_their_plot(monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "svg", lambda figure, text: drawn.append(figure.axes[0]))
    plots.latency(range(218), [20.0] * 217 + [200.0], "image")
    (axes,) = drawn
    assert axes.get_ylim()[1] > max(max(line.get_ydata()) for line in axes.lines[1:]) > 100


def test_without_truth_there_are_no_errors_and_no_recall(write_outcome, tmp_path):
    out = write_outcome(tmp_path, truth=False)
    headings = [heading for heading, _ in reports_page.plots_of(read_outcome(out))]
    assert headings == ["Latency", "Score over time"]
    page = Page(reports_page.page(read_outcome(out)))
    assert "nothing found" not in page.text and "True poses" not in page.text


def test_the_terminal_gets_the_same_figures(built):
    table = reports_page.terminal_table(read_summary(built))
    assert "<b>" not in table and "wanted an Image" in table
    lines = {line.split()[0]: line for line in table.splitlines() if line}
    assert lines["figure"].split() == ["figure", "all", "cube", "dragon", "<5>"]
    assert lines["found"].split()[1::2] == ["95.4", "91.0", "95.0"]
    assert all(meaning(n).show(v) in lines[n] for n, v in read_summary(built).figures.items())


def test_a_regression_is_the_exit_code_of_the_report(built, write_outcome, tmp_path):
    assert rebuild(built, "--against", str(write_outcome(tmp_path, mssd=0.99))) == 1


@pytest.mark.parametrize(
    "file, change, said",
    [
        ("summary.json", lambda c: c | {"schema": 2}, "schema: wanted 1, found 2"),
        ("summary.json", lambda c: c | {"figures": {"mssd": "high"}}, "mssd: wanted int or float, found"),
        ("summary.json", lambda c: c | {"kind": "video"}, "kind: wanted 'bag' or 'bop', found 'video'"),
        ("summary.json", lambda c: {k: c[k] for k in c if k != "bundle"}, "bundle: wanted dict, found None"),
        ("summary.json", lambda c: c | {"curves": {"a": {"x": [1], "y": [], "x_label": ""}}}, "1 x and 0 y"),
        ("frames.jsonl", lambda c: c | {"latency_ms": None}, "line 1: latency_ms: wanted int or float"),
        ("frames.jsonl", lambda c: c | {"estimates": {}}, "line 1: estimates: wanted list, found {}"),
    ],
)
def test_damaged_files_are_refused_by_field(write_outcome, tmp_path, file, change, said):
    path = write_outcome(tmp_path) / file
    lines = path.read_text().splitlines() if file.endswith("l") else [path.read_text()]
    path.write_text("\n".join([json.dumps(change(json.loads(lines[0]))), *lines[1:]]))
    with pytest.raises(OutcomeError) as error:
        read_outcome(tmp_path)
    assert said in str(error.value) and file in str(error.value)


def test_a_line_cut_short_is_named(write_outcome, tmp_path):
    path = write_outcome(tmp_path) / "frames.jsonl"
    path.write_text(path.read_text()[:-40])
    with pytest.raises(OutcomeError, match="line 60: not JSON"):
        read_outcome(tmp_path)


def works(program: str) -> bool:
    """Whether it is a browser and not a stand-in that asks for a snap."""
    return subprocess.run([program, "--version"], capture_output=True, timeout=60).returncode == 0


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A function that runs a headless browser on a page; returns what it prints."""
    program = next(filter(works, filter(None, map(shutil.which, BROWSERS))), None)
    if not program:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} runs; apt-get install chromium")
    profile = tmp_path_factory.mktemp("profile")

    def run(path, *options: str) -> str:
        fixed = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")
        command = [program, *fixed, f"--user-data-dir={profile}", *options, path.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout

    return run


def near(picture, color) -> int:
    """How many pixels have a colour."""
    return int((np.abs(picture.astype(int) - color).max(-1) < 12).sum())


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_browser_shows_the_page_in_light_and_dark(built, browser, tmp_path, dark):
    shot = tmp_path / "shot.png"
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    browser(built / "report.html", f"--screenshot={shot}", "--window-size=1200,2400", scheme)
    picture = cv2.imread(str(shot))
    assert picture.shape == (2400, 1200, 3)
    paper = picture[5, 5].mean()
    assert paper < 40 if dark else paper > 240
    ink = np.abs(picture.mean(-1) - paper) > 100
    assert 0.01 < ink.mean() < 0.6
    assert ink[:100].any() and ink[2000:].any()  # a head, and something below the plots
    bars = (245, 179, 99) if dark else (178, 102, 11)  # BGR of the first line colour, as histograms have it
    assert near(picture, bars) > 3000
    assert near(picture, OVERLAY) > 30_000


def test_nothing_runs_off_a_phone(built, browser, tmp_path):
    page = escape((built / "report.html").read_text())
    measure = "document.body.dataset.wide = f.contentDocument.documentElement.scrollWidth"
    (tmp_path / "phone.html").write_text(
        f'<body><iframe id="f" style="width: 360px; border: 0" srcdoc="{page}"></iframe>'
        f"<script>f.onload = () => {measure}</script></body>"
    )
    printed = browser(tmp_path / "phone.html", "--dump-dom", "--virtual-time-budget=3000")
    assert re.search('data-wide="([0-9]+)"', printed)[1] == "360"
