# SPDX-License-Identifier: Apache-2.0
"""Repairs the ROS wheels: their CMake exports name folders of the machine that built them."""

import re
from pathlib import Path

# The two prefixes that occur: Python's and NumPy's headers on the machine that built the wheels.
NUMPY_INCLUDE = re.compile(r"/opt/python/[^;\"]*/site-packages/numpy/[^;\"]*include")
PYTHON_INCLUDE = re.compile(r"/opt/python/[^;\"/]*/include/python[0-9.]+")


def mend_exports(prefix: Path, python_include: Path, numpy_include: Path) -> int:
    """Rewrites the include folders in share/*/cmake/*Export.cmake below prefix.

    Returns how many files changed.
    """
    changed = 0
    for path in sorted(prefix.glob("share/*/cmake/*Export.cmake")):
        text = path.read_text()
        mended = NUMPY_INCLUDE.sub(str(numpy_include), text)
        mended = PYTHON_INCLUDE.sub(str(python_include), mended)
        if mended != text:
            path.write_text(mended)
            changed += 1
    return changed
