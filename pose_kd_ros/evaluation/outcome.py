# SPDX-License-Identifier: Apache-2.0
"""The folder of an evaluation: summary.json and frames.jsonl, written, read back and checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from ..provenance import write_whole
from .frame import Frame, OutcomeError, expect

SCHEMA = 1
SUMMARY, FRAMES, OVERLAYS = "summary.json", "frames.jsonl", "overlays"


@dataclass(frozen=True)
class Summary:
    """What summary.json says.

    kind: "bag" or "bop". source: what was evaluated on. figures: by flat name, SI units but for names that
    end in another one (``_ms``, ``_px``); NaN where there was nothing to measure. objects: class_name and
    figures by object id. curves: ``x``, ``y`` and ``x_label`` by name. faults: how often each was met.
    """

    kind: str
    source: str
    bundle: dict
    frames: int
    figures: dict[str, float]
    objects: dict[str, dict]
    curves: dict[str, dict]
    environment: dict
    faults: dict[str, int]

    @property
    def name(self) -> str:
        """The bundle's name."""
        return str(self.bundle.get("name", "unnamed"))


@dataclass(frozen=True)
class Outcome:
    """A whole evaluation."""

    folder: Path
    summary: Summary
    frames: tuple[Frame, ...]

    @property
    def latencies_ms(self) -> list[float]:
        return [frame.latency_ms for frame in self.frames]

    def overlay(self, frame: int) -> Path:
        """Where the picture of a frame with its poses lies, if there is one."""
        return self.folder / OVERLAYS / f"{frame:06d}.jpg"


def write_summary(out: Path, **content) -> dict:
    """Write OUT/summary.json whole or not at all; NaN becomes null. Returns what was written."""
    document = {"schema": SCHEMA, **plain(content)}
    write_whole(out / SUMMARY, json.dumps(document, indent=1) + "\n")
    return document


def plain(value):
    """The value as JSON has it: built-in types; NaN and infinity, which it has not, as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def read_outcome(folder) -> Outcome:
    """Read an evaluation's folder; raises OutcomeError."""
    folder = Path(folder)
    return Outcome(folder, read_summary(folder / SUMMARY), read_frames(folder / FRAMES))


def read_summary(path) -> Summary:
    """Read summary.json, from its own path or its folder's; raises OutcomeError."""
    path = Path(path)
    path = path / SUMMARY if path.is_dir() else path
    content = _parsed(path, "", _text(path))
    if content.get("schema") != SCHEMA:
        raise OutcomeError(f"{path}: schema: wanted {SCHEMA}, found {content.get('schema')!r}")
    kinds = {"str": str, "dict": dict, "int": int}
    for field in fields(Summary):
        expect(f"{path}: {field.name}", content.get(field.name), kinds[field.type.split("[")[0]])
    if content["kind"] not in ("bag", "bop"):
        raise OutcomeError(f"{path}: kind: wanted 'bag' or 'bop', found {content['kind']!r}")
    for name, curve in content["curves"].items():
        _check_curve(f"{path}: curves: {name}", curve)
    content["figures"] = _numbers(f"{path}: figures", content["figures"])
    for key, entry in content["objects"].items():
        expect(f"{path}: objects: {key}", entry, dict)
        figures = {name: value for name, value in entry.items() if name != "class_name"}
        names = {"class_name": str(entry.get("class_name", key))}
        content["objects"][key] = names | _numbers(f"{path}: objects: {key}", figures)
    return Summary(**{field.name: content[field.name] for field in fields(Summary)})


def read_frames(path) -> tuple[Frame, ...]:
    """Read frames.jsonl; raises OutcomeError."""
    lines = enumerate(_text(Path(path)).splitlines(), 1)
    return tuple(
        Frame.from_json(_parsed(path, f" line {number}", line), f"{path} line {number}")
        for number, line in lines
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OutcomeError(f"{path}: cannot be read ({error})") from error


def _parsed(path: Path, place: str, text: str) -> dict:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise OutcomeError(f"{path}{place}: not JSON ({error})") from error
    expect(f"{path}{place}", content, dict)
    return content


def _check_curve(place: str, curve) -> None:
    expect(place, curve, dict)
    x, y = (list(_numbers(place, dict(enumerate(curve.get(axis, ()))))) for axis in "xy")
    if len(x) != len(y) or not x:
        raise OutcomeError(f"{place}: wanted as many x as y, and some, found {len(x)} x and {len(y)} y")
    expect(f"{place}: x_label", curve.get("x_label"), str)


def _numbers(place: str, values: dict) -> dict:
    """Values as floats, null as NaN."""
    for name, value in values.items():
        expect(f"{place}: {name}", 0.0 if value is None else value, int, float)
    return {name: math.nan if value is None else float(value) for name, value in values.items()}
