# SPDX-License-Identifier: Apache-2.0
"""What figures are called, which way is better and how they are shown: the one place that knows.

Convention: shares are kept in 0..1 and shown in per cent: 0.494 is "49.4 %"; 0.0031 m is "3.10 mm".
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

HIGHER, LOWER, NOMINAL, NEITHER = "higher", "lower", "nominal", "neither"
ARROWS = {HIGHER: "↑", LOWER: "↓", NOMINAL: "→", NEITHER: ""}


@dataclass(frozen=True)
class Meaning:
    """better: HIGHER, LOWER, NOMINAL (to ``target``) or NEITHER. factor: from the kept number to ``unit``."""

    text: str
    better: str = NEITHER
    unit: str = ""
    factor: float = 1.0
    target: float = math.nan

    def loss(self, value: float) -> float:
        """A number that grows as the figure gets worse."""
        return {HIGHER: -value, LOWER: value, NOMINAL: abs(value - self.target), NEITHER: 0.0}[self.better]

    def show(self, value: float) -> str:
        """The figure as people read it, three digits of it; a dash where nothing was measured."""
        if math.isnan(value):
            return "–"
        value *= self.factor
        whole = abs(value) >= 1000 or (not self.unit and value == round(value))
        text = f"{value:.0f}" if whole else f"{value:#.3g}".rstrip(".") if self.unit else f"{value:.3g}"
        return text + (self.unit if self.unit == "°" else f" {self.unit}".rstrip())


def share(text: str, better: str = HIGHER) -> Meaning:
    return Meaning(text, better, "%", 100.0)


# The first whose pattern fits the whole name counts.
MEANINGS = [
    (re.compile(pattern), meaning)
    for pattern, meaning in [
        ("refused_images", Meaning("images that were refused", LOWER)),
        ("judged_images", Meaning("images with truth", HIGHER)),
        ("images|frames|instances|estimates|truths|objects|tracks|targets", Meaning("")),
        ("ar", share("BOP average recall")),
        ("mssd", share("MSSD, average recall")),
        ("mspd", share("MSPD, average recall")),
        ("vsd", share("VSD, average recall")),
        ("(mssd|add|add_s|adds)_0?(\\d+)d", share("")),
        ("found|.*found_rate|.*recall.*|.*precision.*|.*auc.*|.*agreement.*", share("")),
        ("within_.*|.*\\d+cm_?\\d+deg.*|(right|share)_.*|projection_\\d+px", share("")),
        ("coverage_(\\d+)", Meaning("", NOMINAL, "%", 100.0)),
        ("false_positives_per_image|false_.*", Meaning("", LOWER)),
        (".*switches.*|.*lost.*|.*dropped.*|.*missed.*|.*fragment.*", Meaning("", LOWER)),
        (".*_ms|ms_per_image|latency.*", Meaning("", LOWER, "ms")),
        (".*_rad", Meaning("", LOWER, "°", 180 / math.pi)),
        (".*_m", Meaning("", LOWER, "mm", 1000.0)),
        (".*_px", Meaning("", LOWER, "px")),
        (".*_d", share("", LOWER)),
        (".*jitter.*|.*error.*", Meaning("", LOWER)),
    ]
]
TEXTS = {
    "found": "found",
    "mssd_01d": "MSSD below 0.1 diameters",
    "add_s_01d": "ADD(-S) below 0.1 diameters",
    "median_rotation_rad": "rotation error, median",
    "median_translation_m": "translation error, median",
    "false_positives_per_image": "false alarms per image",
    "found_rate": "frames with a pose",
    "consistency_px": "from where the track expected it, median",
    "consistency_p95_px": "from where the track expected it, 95th percentile",
    "edge_px": "outline to edges of the image, median",
    "edge_agreement": "outline on edges of the image",
    "jitter_translation_m": "jitter of the translation",
    "jitter_rotation_rad": "jitter of the rotation",
    "precision_05d": "precision at 0.5 diameters",
    "ms_per_image": "time per image, median",
    "latency_p50_ms": "latency, median",
    "latency_p95_ms": "latency, 95th percentile",
    "latency_p99_ms": "latency, 99th percentile",
}
UNITS = re.compile("_(ms|rad|m|px|d)$")


def meaning(name: str) -> Meaning:
    """The meaning of a figure; an unknown name is shown as it is, and neither way is better."""
    object_id = re.fullmatch(r"(add_s_01d)_(\d+)", name)
    if object_id:
        known = meaning(object_id[1])
        return replace(known, text=f"{known.text}, object {object_id[2]}")
    for pattern, known in MEANINGS:
        match = pattern.fullmatch(name)
        if match:
            target = float(match[1]) / 100 if known.better == NOMINAL else math.nan
            return replace(known, text=TEXTS.get(name) or known.text or _words(name), target=target)
    return Meaning(_words(name))


def is_time(name: str) -> bool:
    """Whether a figure is a duration, which no two runs have in common."""
    return meaning(name).unit == "ms"


def _words(name: str) -> str:
    return UNITS.sub("", name).replace("_", " ")
