# SPDX-License-Identifier: Apache-2.0
import io
import json
import os
import random
import sys
import tarfile
from pathlib import Path

import cv2
import pytest

from standalone.domains import reserve_domain

sys.path[:0] = [str(Path(__file__).parent / room) for room in ("support", "nodes")]  # what tests share

# Before any rclpy: tests talk to nobody but themselves.
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
if "ROS_DOMAIN_ID" not in os.environ:
    os.environ["ROS_DOMAIN_ID"] = str(reserve_domain())


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of development data beside the checkout, or where POSE_KD_SHARED_DATA says."""
    root = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ.get("POSE_KD_SHARED_DATA", root))
    if not root.is_dir():
        pytest.skip(f"shared data: no folder {root}")
    return root


@pytest.fixture(scope="session")
def to_shards():
    """A function that writes images of a split of scene folders as shards, laid out as by bop_toolkit."""
    return write_shards


def write_shards(split: Path, out: Path, limit: int = 0, per_shard: int = 4) -> None:
    """``limit`` images (0: all) of ``split`` -> ``out``/shard-000000.tar and so on, shuffled."""
    images = [(scene, int(key)) for scene in sorted(split.iterdir()) if scene.is_dir() for key in keys(scene)]
    images = images[: limit or None]
    random.Random(0).shuffle(images)
    out.mkdir(parents=True)
    shard_of = {}
    for start in range(0, len(images), per_shard):
        number = start // per_shard
        with tarfile.open(out / f"shard-{number:06d}.tar", "w") as tar:
            for scene, image in images[start : start + per_shard]:
                key = f"{int(scene.name):06d}_{image:06d}"
                shard_of[key] = number
                for name, data in members(scene, image).items():
                    header = tarfile.TarInfo(f"{key}.{name}")
                    header.size = len(data)
                    tar.addfile(header, io.BytesIO(data))
    (out / "key_to_shard.json").write_text(json.dumps(shard_of))


def keys(scene: Path) -> list[str]:
    return list(json.loads((scene / "scene_gt.json").read_text()))


def members(scene: Path, image: int) -> dict[str, bytes]:
    """The members of one image by what follows its key."""
    found = {}
    for name in ("camera", "gt", "gt_info"):
        if (scene / f"scene_{name}.json").exists():
            entry = json.loads((scene / f"scene_{name}.json").read_text())[str(image)]
            found[f"{name}.json"] = json.dumps(entry).encode()
    for modality in ("rgb", "gray", "depth"):
        for path in (scene / modality).glob(f"{image:06d}.*"):
            found[modality + path.suffix] = path.read_bytes()
    masks = sorted((scene / "mask_visib").glob(f"{image:06d}_*.png"))
    if masks:
        pixels = {int(m.stem[-6:]): cv2.imread(str(m), cv2.IMREAD_UNCHANGED) > 0 for m in masks}
        found["mask_visib.json"] = json.dumps({k: run_lengths(p) for k, p in pixels.items()}).encode()
    return found


def run_lengths(mask) -> dict:
    """COCO's uncompressed run lengths, column by column, the first run of zeros."""
    counts, value = [0], False
    for pixel in mask.T.reshape(-1).tolist():
        if pixel != value:
            counts, value = [*counts, 0], pixel
        counts[-1] += 1
    return {"counts": counts, "size": list(mask.shape)}
