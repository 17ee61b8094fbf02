# SPDX-License-Identifier: Apache-2.0
"""The keys that every row of docs/results shares."""

from __future__ import annotations

import datetime

from pose_kd_ros.provenance import commit, processor


def common(
    name: str,
    method: str,
    family: str,
    dataset: str,
    split: str,
    *,
    network: str = "",
    seed: int = 0,
    steps: int = 0,
) -> dict:
    """Return a row's name, what was measured, when, at which commit, and on which processor."""
    return {
        "name": name,
        "method": method,
        "network": network,
        "family": family,
        "dataset": dataset,
        "split": split,
        "seed": seed,
        "steps": steps,
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "hardware": processor(),
    }
