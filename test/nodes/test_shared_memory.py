# SPDX-License-Identifier: Apache-2.0
"""What the tests clean up after killed nodes, beside nodes that live."""

from pathlib import Path

import pytest

pytest.importorskip("rclpy")
from standalone.shared_memory import SEGMENT, SHM, sweep, text


def test_only_what_no_process_has_mapped_is_swept(ros, request):
    ros.node("alive")
    mine = set(SEGMENT.findall(text(Path("/proc/self/maps"))))
    files = {path for path in SHM.glob("*fastdds_*") if SEGMENT.search(path.name)[0] in mine}
    assert any(path.name.endswith("_el") for path in files) and any("mutex" in path.name for path in files)
    left = [SHM / f"fastdds_{id(request):x}", SHM / f"fastdds_{id(request):x}_el"]
    for path in left:
        path.touch()
    sweep()
    assert all(path.exists() for path in files) and not any(path.exists() for path in left)
