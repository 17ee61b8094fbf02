# SPDX-License-Identifier: Apache-2.0
"""Whatever comes in from outside is used or refused in words, never worse.

POSE_KD_FUZZ is the number of cases of all tests together, see docs/reliability.md.
"""

import copy
import functools
import io
import json
import os
import shutil
import tempfile
import warnings
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pose_kd_ros.bundle.manifest import BundleError
from pose_kd_ros.bundle.onnx_file import has_external_data
from pose_kd_ros.bundle.store import open_bundle, sha256
from pose_kd_ros.core.encoded import MOST_PIXELS
from pose_kd_ros.core.sensor_messages import (
    LAYOUTS,
    NAMES,
    ORDERED,
    UnusableMessage,
    compressed_to_rgb,
    image_to_rgb,
    info_to_camera,
)
from pose_kd_ros.recordings.bags import BagError, open_bag
from pose_kd_ros.recordings.images import BagImages
from pose_kd_ros.recordings.transforms import Transforms

CASES = int(os.environ.get("POSE_KD_FUZZ", "900"))
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
CUBE = Path(__file__).resolve().parents[1] / "bundles" / "cube"
INTEGERS = st.integers(0, 40) | st.sampled_from([2**16 - 1, 2**31 - 1, 2**32 - 1])
NUMBERS = st.floats(width=64) | st.floats(-1e3, 1e3) | st.sampled_from([0.0, 1.0, 500.0, 320.0])
EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.sampled_from(["set", "cut", "double", "insert"]), st.binary(max_size=8)),
    max_size=6,
)


def fuzzed(share):
    """Run a test on this share, in fifteenths, of all cases."""
    count = CASES * share // 15
    return settings(max_examples=count, deadline=None, suppress_health_check=SLOW, database=None)


def edited(data, edits):
    """Return a file (bytes) with bytes overwritten, cut off, doubled or inserted at some places."""
    for share, kind, value in edits:
        at = int(share * len(data))
        data = {
            "set": data[:at] + value + data[at + len(value) :],
            "cut": data[:at],
            "double": data[:at] + data[max(0, at - 64) :],
            "insert": data[:at] + value + data[at:],
        }[kind]
    return data


def picture_or_refusal(convert, message):
    try:
        pixels = convert(message)
    except UnusableMessage as error:
        assert str(error) and error.reason
        return
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    assert 0 < pixels.size <= 3 * MOST_PIXELS


@fuzzed(4)
@given(
    st.sampled_from([*LAYOUTS, *ORDERED, ""]) | st.text(max_size=8),
    INTEGERS,
    INTEGERS,
    INTEGERS,
    st.integers(0, 1),
    st.binary(max_size=600),
    st.booleans(),
)
def test_images(encoding, width, height, step, big, data, consistent):
    if consistent and encoding in LAYOUTS:
        width, height = 1 + width % 12, 1 + height % 12
        kind, channels = LAYOUTS[encoding]
        step = width * channels * int(kind[1]) + step % 4
        data = (data or b"x") * (1 + height * step // max(1, len(data)))
    message = SimpleNamespace(
        encoding=encoding, width=width, height=height, step=step, is_bigendian=big, data=data
    )
    picture_or_refusal(image_to_rgb, message)


@functools.lru_cache
def files():
    """A JPEG of each kind and a PNG, (24, 32) pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    options = (".jpg", ()), (".jpg", (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)), (".png", ())
    return [cv2.imencode(kind, pixels, option)[1].tobytes() for kind, option in options]


@fuzzed(4)
@given(st.integers(0, 2), EDITS, st.none() | st.tuples(INTEGERS, INTEGERS))
def test_compressed_images(which, edits, size):
    data = files()[which]
    if size is not None and which < 2:
        at = data.find(b"\xff\xc0" if which == 0 else b"\xff\xc2")
        sides = b"".join((side % 2**16).to_bytes(2, "big") for side in size)
        data = data[: at + 5] + sides + data[at + 9 :]
    elif size is not None:
        data = data[:16] + b"".join(side.to_bytes(4, "big") for side in size) + data[24:]
    picture_or_refusal(compressed_to_rgb, SimpleNamespace(data=edited(data, edits), format="jpeg"))


@fuzzed(4)
@given(
    st.lists(NUMBERS, min_size=9, max_size=9),
    st.lists(NUMBERS | st.just(0.0), max_size=16),
    st.sampled_from([*NAMES]) | st.text(max_size=8),
    st.lists(INTEGERS, min_size=6, max_size=6),
    st.booleans(),
)
def test_camera_info(k, d, model, sizes, pinhole):
    if pinhole:
        k[1] = k[3] = k[6] = k[7] = 0.0
        k[0], k[4], k[8] = abs(k[0]), abs(k[4]), 1.0
        sizes[2:] = [0] * 4
    roi = SimpleNamespace(width=sizes[4], height=sizes[5])
    info = SimpleNamespace(
        k=k,
        d=d,
        distortion_model=model,
        width=sizes[0],
        height=sizes[1],
        binning_x=sizes[2],
        binning_y=sizes[3],
        roi=roi,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            camera = info_to_camera(info)
        except UnusableMessage as error:
            assert str(error) and error.reason
            return
        points = np.array([[0.1, 0.2, 1.0], [-3.0, 0.1, 0.5], [0.0, 0.0, -1.0], [1e6, 0, 1e-6]])
        assert camera.project(points).shape == (4, 2)
        assert camera.undistort([[0.0, 0.0], [1e9, -1e9]]).shape == (2, 2)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def places(value, path=()):
    """All paths into decoded JSON."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


@functools.lru_cache
def whole_bundle():
    return open_bundle(CUBE)


@functools.lru_cache
def copied_bundle():
    """The cube's bundle, its network replaced by a small file: only the hash counts."""
    folder = Path(tempfile.mkdtemp(prefix="pose_kd_fuzz_")) / "cube"
    shutil.copytree(CUBE, folder)
    (folder / "network.onnx").write_bytes(b"small")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["network.onnx"] = sha256(folder / "network.onnx")
    (folder.parent / "manifest.json").write_text(json.dumps(manifest))
    return folder


@fuzzed(1)
@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from(["set", "drop", "add"]), JSON), max_size=3), EDITS)
def test_manifests(changes, edits):
    folder = copied_bundle()
    manifest = json.loads((folder.parent / "manifest.json").read_text())
    for share, kind, value in changes:
        found = [path for path in places(manifest) if path]
        if not found:
            break
        path = found[int(share * (len(found) - 1))]
        owner = functools.reduce(lambda inner, key: inner[key], path[:-1], manifest)
        if kind == "set":
            owner[path[-1]] = copy.deepcopy(value)
        elif kind == "drop":
            del owner[path[-1]]
        elif isinstance(owner, dict):
            owner[str(value)] = value
        else:
            owner.append(value)
    text = json.dumps(manifest).encode()
    (folder / "manifest.json").write_bytes(text if changes else edited(text, edits))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            open_bundle(folder).golden()
        except BundleError as error:
            assert str(folder) in str(error)


@fuzzed(1)
@given(EDITS, EDITS)
def test_networks_and_arrays(network, arrays):
    try:
        has_external_data(edited((CUBE / "network.onnx").read_bytes(), network))
    except ValueError as error:
        assert str(error).startswith("ONNX: wanted")
    bundle, folder = whole_bundle(), copied_bundle()
    (folder / "golden.npz").write_bytes(edited((CUBE / "golden.npz").read_bytes(), arrays))
    try:
        type(bundle)(folder, bundle.manifest, bundle.objects)._arrays("golden.npz")
    except BundleError as error:
        assert "golden.npz: not a plain npz" in str(error)
    finally:
        shutil.copyfile(CUBE / "golden.npz", folder / "golden.npz")


@functools.lru_cache
def recordings():
    """Small recordings of both storages, as bytes by suffix."""
    from recordings import disc_messages, tf_at, write
    from rosbags.rosbag2 import StoragePlugin

    made = {}
    for storage, suffix in ((StoragePlugin.MCAP, ".mcap"), (StoragePlugin.SQLITE3, ".db3")):
        folder = Path(tempfile.mkdtemp(prefix="pose_kd_fuzz_")) / "bag"
        messages = [*disc_messages(2), tf_at(5_000_000_000, "world", "camera", np.eye(4))]
        write(folder, messages, storage)
        made[suffix] = next(folder.glob(f"*{suffix}")).read_bytes()
    return made


@fuzzed(1)
@given(st.sampled_from([".mcap", ".db3"]), EDITS, st.booleans())
def test_bags(suffix, edits, salvage):
    path = copied_bundle().parent / f"fuzzed{suffix}"
    path.write_bytes(edited(recordings()[suffix], edits))
    try:
        with open_bag(path, salvage) as bag:
            Transforms.read(bag)
            for frame in BagImages(bag).frames():
                assert frame.image.shape[2] == 3
    except BagError as error:
        assert str(error)


def test_edits_change_files():
    assert edited(b"abcdef", [(0.5, "set", b"X")]) == b"abcXef"
    assert edited(b"abcdef", [(0.5, "cut", b"")]) == b"abc"
    assert io.BytesIO(edited(b"ab", [(0.5, "insert", b"-")])).read() == b"a-b"
