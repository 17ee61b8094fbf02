# SPDX-License-Identifier: Apache-2.0
"""Headers of JPEG and PNG files are read before anything is decoded."""

import time
import zlib
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from pose_kd_ros.core.encoded import MOST_PIXELS, EncodedError, size_of
from pose_kd_ros.core.sensor_messages import UnusableMessage, compressed_size, compressed_to_rgb

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)


def encode(extension, *options):
    return cv2.imencode(extension, PIXELS, options)[1].tobytes()


def jpeg_of(width, height):
    """A small JPEG whose header says another size."""
    data = bytearray(cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    at = data.find(b"\xff\xc0")
    data[at + 5 : at + 9] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(data)


def png_of(width, height):
    def chunk(name, body):
        return len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(100))), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    "data",
    [
        encode(".png"),
        encode(".jpg"),
        encode(".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        encode(".jpg", cv2.IMWRITE_JPEG_RST_INTERVAL, 1),
    ],
)
def test_the_size_is_the_decoded_one(data):
    assert size_of(data) == (40, 24)


def test_a_thumbnail_s_size_is_not_the_picture_s():
    thumbnail = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    segment = b"\xff\xe1" + (len(thumbnail) + 8).to_bytes(2, "big") + b"Exif\0\0" + thumbnail
    data = encode(".jpg")
    assert size_of(data[:2] + segment + data[2:]) == (40, 24)
    with pytest.raises(EncodedError, match="truncated"):  # the only end mark is the thumbnail's
        size_of(data[:2] + segment + data[2:-2])


@pytest.mark.parametrize(
    "data", [jpeg_of(65000, 65000), jpeg_of(20000, 20000), png_of(65000, 65000), png_of(2**31, 2**31)]
)
def test_a_size_bomb_is_refused_in_no_time(data):
    message = SimpleNamespace(data=data, format="jpeg")
    started = time.perf_counter()
    with pytest.raises(UnusableMessage, match=f"wanted 1 to {MOST_PIXELS} pixels, found a header") as refusal:
        compressed_to_rgb(message)
    assert time.perf_counter() - started < 0.01 and refusal.value.reason == "image_size"


def test_thousands_of_scans_are_refused():
    data = encode(".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    last = data.rfind(b"\xff\xda")
    scans = data[:last] + data[last:-2] * 200 + data[-2:]
    with pytest.raises(EncodedError, match="wanted at most 128 scans, found 2"):
        size_of(scans)


@pytest.mark.parametrize("data", [encode(".jpg"), encode(".png")])
@pytest.mark.parametrize("padding", [b"\0" * (40 * 24 * 3), b"\0" * 100_000, b"serial 0815"])
def test_what_drivers_put_behind_the_end_does_no_harm(data, padding):
    message = SimpleNamespace(data=data + padding, format="jpeg")
    assert compressed_size(message) == (40, 24) and compressed_to_rgb(message).shape == (24, 40, 3)


@pytest.mark.parametrize("data", [encode(".jpg"), encode(".png")])
def test_any_cut_is_seen(data):
    for length in range(len(data)):
        with pytest.raises(EncodedError):
            size_of(data[:length] + bytes(len(data) - length))
