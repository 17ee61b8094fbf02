# SPDX-License-Identifier: Apache-2.0
"""What an ONNX file refers to, read without the onnx package: a robot does not have it.

A tensor may keep its values in another file, anywhere on the disk. The manifest holds no hash of that.
Source: onnx.proto; a message is a sequence of (field number, value), nested ones are length-delimited.
"""

from __future__ import annotations

from collections.abc import Iterator

# Of the messages that lead to tensors: {field number: kind of the message in it}
NESTED = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
EXTERNAL_DATA, DATA_LOCATION = 13, 14  # fields of a tensor
DEEPEST = 64
VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5
FIXED = {FIXED64: 8, FIXED32: 4}


def has_external_data(data: bytes) -> bool:
    """Whether any tensor of an ONNX model keeps its values elsewhere. Raises ValueError for other bytes."""
    return _external(memoryview(data), "model", 0)


def _external(data: memoryview, kind: str, depth: int) -> bool:
    if depth > DEEPEST:
        raise ValueError(f"ONNX: wanted at most {DEEPEST} levels, found more")
    for number, value in _fields(data):
        if kind == "tensor" and (number == EXTERNAL_DATA or (number == DATA_LOCATION and value)):
            return True
        inner = NESTED[kind].get(number)
        if inner and isinstance(value, memoryview) and _external(value, inner, depth + 1):
            return True
    return False


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        length = FIXED.get(wire, 0)
        if wire == DELIMITED:
            length, at = _varint(data, at)
        elif not length:
            raise ValueError(f"ONNX: wanted a known kind of field, found {wire}")
        if at + length > len(data):
            raise ValueError(f"ONNX: wanted {length} bytes, found {len(data) - at}")
        yield number, data[at : at + length]
        at += length


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte, at = data[at], at + 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("ONNX: wanted a number of at most 10 bytes, found more or none")
