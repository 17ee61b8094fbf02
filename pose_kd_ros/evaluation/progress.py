# SPDX-License-Identifier: Apache-2.0
"""frames.jsonl, appended to image by image, and what is needed to go on after a break with the same bytes."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from ..provenance import code, write_whole
from ..recordings.bags import BagError
from .frame import Frame
from .outcome import FRAMES, SUMMARY, read_frames

STATE = "state.json"
SAVE_S = 0.5  # the state is saved this often, and at the end: a run that is killed repeats no more


class Progress:
    """An evaluation's folder while it is filled, to be used in ``with``.

    last: number of the last image that is in it, -1 for none. follower: the pipeline's state after
    it, None for none. Lines whose state was not saved when a run was killed are cut off: the state
    says up to where they are good.
    """

    def __init__(self, out: Path, identity: Mapping, fresh: bool = False):
        """identity: what the lines depend on. fresh: forget what is there.

        Raises BagError: ``out`` holds another evaluation, or its files do not fit each other.
        """
        self.out, self.identity = out, {"code": code(), **identity}
        out.mkdir(parents=True, exist_ok=True)
        saved = {} if fresh else self._saved()
        self.last, self.follower = saved.get("last", -1), saved.get("follower")
        self._first = self.last
        self._size, self._path = saved.get("bytes", 0), out / FRAMES
        self._state: dict | None = None
        self._saved_at = time.monotonic()
        if not fresh and self._size > (self._path.stat().st_size if self._path.exists() else 0):
            raise BagError(
                f"{self._path}: wanted the {self._size} bytes that {STATE} names, found fewer: use --fresh"
            )
        with open(self._path, "ab") as file:
            file.truncate(self._size)
        if fresh:
            for name in (STATE, SUMMARY):
                (out / name).unlink(missing_ok=True)

    def _saved(self) -> dict:
        path = self.out / STATE
        if not path.is_file():
            if (self.out / SUMMARY).exists():
                raise BagError(f"{self.out} holds another evaluation: choose another --out, or use --fresh")
            return {}
        saved = json.loads(path.read_text(encoding="utf-8"))
        for name, wanted in self.identity.items():
            found = saved["identity"].get(name)
            if found != wanted:
                raise BagError(
                    f"{self.out} holds another evaluation ({name}: {found!r}, now {wanted!r}): "
                    "choose another --out, or use --fresh"
                )
        return saved

    def add(self, frame: Frame, follower: dict) -> None:
        """Append an image's line; the pipeline's state after it is saved with it, or soon."""
        line = (json.dumps(frame.to_json()) + "\n").encode()
        with open(self._path, "ab") as file:
            file.write(line)
        self._size += len(line)
        self.last, self.follower = frame.number, follower
        about = {"identity": self.identity, "last": self.last, "bytes": self._size}
        self._state = about | {"follower": follower}
        if time.monotonic() - self._saved_at >= SAVE_S:
            self._save()

    def _save(self) -> None:
        if self._state is not None:
            write_whole(self.out / STATE, json.dumps(self._state))
        self._state, self._saved_at = None, time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, error, *_) -> None:
        self._save()
        if error is None and self.last == self._first >= 0:
            print(f"{self.out}: nothing was left to do; --fresh evaluates again", file=sys.stderr)

    def frames(self) -> tuple[Frame, ...]:
        """All frames that are in it."""
        return read_frames(self._path)


def size_of(path: Path) -> int:
    """Bytes of a recording: a file, or all files of a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(os.path.getsize(one) for one in path.rglob("*") if one.is_file())
