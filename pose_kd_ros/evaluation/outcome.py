"""The folder of an evaluation: summary.json and frames.jsonl, written, read back and checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from ..provenance import write_whole

SCHEMA = 1
SUMMARY, FRAMES, OVERLAYS = "summary.json", "frames.jsonl", "overlays"
FRAME_KEYS = {
    "frame": int,
    "stamp_ns": int,
    "camera": str,
    "latency_ms": (int, float),
    "stages_ms": dict,
    "estimates": list,
    "truth": list,
    "errors": list,
}


class OutcomeError(ValueError):
    """An evaluation's file is missing or not what it should be; the text names the file and the field."""


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
    """A whole evaluation; frames as the lines of frames.jsonl."""

    folder: Path
    summary: Summary
    frames: tuple[dict, ...]

    @property
    def latencies_ms(self) -> list[float]:
        return [frame["latency_ms"] for frame in self.frames]

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
        raise OutcomeError(f"{path}: schema: found {content.get('schema')!r}, wanted {SCHEMA}")
    kinds = {"str": str, "dict": dict, "int": int}
    for field in fields(Summary):
        _check(f"{path}: {field.name}", content.get(field.name), kinds[field.type.split("[")[0]])
    if content["kind"] not in ("bag", "bop"):
        raise OutcomeError(f"{path}: kind: found {content['kind']!r}, wanted 'bag' or 'bop'")
    for name, curve in content["curves"].items():
        _check_curve(f"{path}: curves: {name}", curve)
    content["figures"] = _numbers(f"{path}: figures", content["figures"])
    for key, entry in content["objects"].items():
        _check(f"{path}: objects: {key}", entry, dict)
        figures = {name: value for name, value in entry.items() if name != "class_name"}
        names = {"class_name": str(entry.get("class_name", key))}
        content["objects"][key] = names | _numbers(f"{path}: objects: {key}", figures)
    return Summary(**{field.name: content[field.name] for field in fields(Summary)})


def read_frames(path) -> tuple[dict, ...]:
    """Read frames.jsonl; raises OutcomeError."""
    path, frames = Path(path), []
    for number, line in enumerate(_text(path).splitlines(), 1):
        frame = _parsed(path, f" line {number}", line)
        for key, kind in FRAME_KEYS.items():
            _check(f"{path} line {number}: {key}", frame.get(key), kind)
        frames.append(frame)
    return tuple(frames)


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
    _check(f"{path}{place}", content, dict)
    return content


def _check(place: str, value, kind) -> None:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or isinstance(value, bool):
        wanted = " or ".join(k.__name__ for k in kinds)
        raise OutcomeError(f"{place}: found {value!r:.60}, wanted {wanted}")


def _check_curve(place: str, curve) -> None:
    _check(place, curve, dict)
    x, y = (list(_numbers(place, dict(enumerate(curve.get(axis, ()))))) for axis in "xy")
    if len(x) != len(y) or not x:
        raise OutcomeError(f"{place}: found {len(x)} x and {len(y)} y, wanted as many of each, and some")
    _check(f"{place}: x_label", curve.get("x_label"), str)


def _numbers(place: str, values: dict) -> dict:
    """Values as floats, null as NaN."""
    for name, value in values.items():
        _check(f"{place}: {name}", 0.0 if value is None else value, (int, float))
    return {name: math.nan if value is None else float(value) for name, value in values.items()}
