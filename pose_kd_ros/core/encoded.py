# SPDX-License-Identifier: Apache-2.0
"""JPEG and PNG files: what their headers say, and whether they are whole, without decoding them.

A decoder allocates what a header asks for: 691 bytes can ask for 65000x65000 pixels. OpenCV fills the rest of
a truncated file with grey and says nothing.
"""

from __future__ import annotations

JPEG, PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
PNG_END = b"IEND\xaeB`\x82"
JPEG_END = b"\xff\xd9"
START_OF_SCAN = b"\xff\xda"
MOST_PIXELS = 2**26  # 8192x8192: 200 MB as RGB
MOST_SCANS = 128  # a progressive JPEG has about ten; each scan costs a pass over all pixels
MOST_SEGMENTS = 4096  # before the size of a JPEG: EXIF, colour profile, thumbnails
FRAME_STARTS = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
NO_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a segment


class EncodedError(ValueError):
    """Bytes that are no whole JPEG or PNG file of a decent size. kind: encoding, truncated or image_size."""

    def __init__(self, kind: str, text: str):
        super().__init__(text)
        self.kind = kind


def size_of(data: bytes) -> tuple[int, int]:
    """Return (width, height) as the header of a JPEG or PNG file says. Raises EncodedError.

    Refuse a file without its end, of more than MOST_PIXELS, or of more than MOST_SCANS.
    """
    if data.startswith(JPEG):
        width, height = _jpeg_size(data)
    elif data.startswith(PNG):
        width, height = _png_size(data)
    else:
        found = f"{len(data)} bytes that begin with {bytes(data[:4])!r}"
        raise EncodedError("encoding", f"wanted JPEG or PNG data, found {found}")
    if not 0 < width * height <= MOST_PIXELS:
        found = f"a header that says {width}x{height}"
        raise EncodedError("image_size", f"wanted 1 to {MOST_PIXELS} pixels, found {found}")
    return width, height


def _truncated(wanted: str, data: bytes) -> EncodedError:
    return EncodedError("truncated", f"is truncated: wanted {wanted}, found {len(data)} bytes without")


def _png_size(data: bytes) -> tuple[int, int]:
    if len(data) < 24 or data[12:16] != b"IHDR":
        raise _truncated("a PNG header", data)
    if PNG_END not in data[24:]:
        raise _truncated("a PNG end mark", data)
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Walk from segment to segment as a decoder does: a thumbnail inside one has its own header."""
    at, size = 2, None
    for _ in range(MOST_SEGMENTS):
        while data[at : at + 2] == b"\xff\xff":  # a marker may be preceded by fill bytes
            at += 1
        if len(data) < at + 4 or data[at] != 0xFF:
            break
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in NO_LENGTH:
            at += 2
            continue
        if marker in FRAME_STARTS:
            if size is not None or len(data) < at + 9:
                break
            size = int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        if marker == START_OF_SCAN[1] and size is not None:
            _check_scans(data, at)
            return size
        at += 2 + length
    raise _truncated("a JPEG header and pixels", data)


def _check_scans(data: bytes, at: int) -> None:
    """Between the pixels' bytes a decoder sees no marker but these: 0xFF among them is followed by 0."""
    if data.find(JPEG_END, at) < 0:
        raise _truncated("a JPEG end mark", data)
    if (scans := data.count(START_OF_SCAN, at)) > MOST_SCANS:
        raise EncodedError("image_size", f"wanted at most {MOST_SCANS} scans, found {scans}")
