import os
import random
from pathlib import Path

import pytest

# Before any rclpy: tests talk to nobody but themselves. Above 101 a domain's ports can meet the system's own.
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ.setdefault("ROS_DOMAIN_ID", str(random.randint(1, 101)))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of development data beside the checkout, or where POSE_KD_SHARED_DATA says."""
    root = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ.get("POSE_KD_SHARED_DATA", root))
    if not root.is_dir():
        pytest.skip(f"shared data: no folder {root}")
    return root
