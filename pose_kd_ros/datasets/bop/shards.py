# SPDX-License-Identifier: Apache-2.0
"""The layout of image-wise shards, which bop_toolkit calls bop-webdataset: <split>/shard-000000.tar, ...

Members of an image: <scene>_<image>.{rgb|gray}.*, .depth.*, .camera.json, .gt.json, .gt_info.json and
.mask_visib.json, the last with the run lengths of every instance (``source.run_lengths``). key_to_shard.json,
where there is one, says which images a shard should hold. An index is made once from the headers; later reads
go straight to a member's bytes.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

from ..faults import DatasetError, Faults
from ..source import Mask, Source
from ..values import as_list, as_object, parsed, read_json
from .image import BopImage, Entries, make_image

_BLOCK = 512  # of a tar file
_KEY = re.compile(r"(\d+)_(\d+)")


def shard_paths(split: Path) -> list[Path]:
    return sorted(split.glob("shard-*.tar"))


def _number(shard: Path) -> int:
    digits = re.search(r"\d+", shard.name)
    return int(digits[0]) if digits else -1


def load_shards(split: Path, faults: Faults, truth_wanted: bool = True) -> list[BopImage]:
    """All images of a split's shards, by scene and image number; ``faults`` records what is wrong.
    truth_wanted: False where gt.json may be absent."""
    images: dict[tuple[int, int], BopImage] = {}
    promised = _promised(split, faults)
    for path in shard_paths(split):
        members: dict[str, dict[str, Source]] = {key: {} for key in promised.get(_number(path), ())}
        members |= _members(path, faults)
        for key, parts in members.items():
            try:
                image = _image(path, key, parts, truth_wanted)
                if (image.scene_id, image.image_id) in images:
                    raise DatasetError(f"{path}: {key} is in another shard, too", "shard")
            except DatasetError as error:
                faults.add(error)
                continue
            images[image.scene_id, image.image_id] = image
    return [images[key] for key in sorted(images)]


def _members(path: Path, faults: Faults) -> dict[str, dict[str, Source]]:
    """The members of a shard: by image key, then by what they are (``camera.json``, ``rgb.jpg``, ...)."""
    found: dict[str, dict[str, Source]] = {}
    try:
        for name, offset, size in _headers(path):
            key, _, part = Path(name).name.partition(".")
            found.setdefault(key, {})[part] = Source(path, name, offset, size)
    except (tarfile.TarError, EOFError, OSError) as error:
        faults.add(DatasetError(f"{path}: not a whole tar file: {error}", "shard"))
    return found


def _headers(path: Path) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of every whole file in a tar; of a truncated one, then tarfile.ReadError."""
    end, total = 0, path.stat().st_size
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            if member.isfile() and member.offset_data + member.size <= total:
                yield member.name, member.offset_data, member.size
            end = member.offset_data + -(-member.size // _BLOCK) * _BLOCK
    with open(path, "rb") as file:
        file.seek(end)
        if file.read(_BLOCK) != bytes(_BLOCK):
            raise tarfile.ReadError("its end is missing: truncated, or still being written")


def _promised(split: Path, faults: Faults) -> dict[int, list[str]]:
    """The image keys that key_to_shard.json, where there is one, promises of each shard."""
    path = split / "key_to_shard.json"
    found: dict[int, list[str]] = {}
    try:
        for key, number in (as_object(read_json(path), path) if path.exists() else {}).items():
            if not isinstance(number, int):
                raise DatasetError(f"{path}: {key}: wanted the number of a shard, found {number!r}")
            found.setdefault(number, []).append(key)
    except DatasetError as error:
        faults.add(DatasetError(str(error), "shard"))
    return found


def _image(path: Path, key: str, parts: dict[str, Source], truth_wanted: bool) -> BopImage:
    numbered = _KEY.fullmatch(key)
    if numbered is None:
        raise DatasetError(f"{path}: wanted members named <scene>_<image>.*, found {key!r}")
    rgb = _picture(parts, "rgb") or _picture(parts, "gray")
    if rgb is None:
        raise DatasetError(f"{path}: {key} has no picture {key}.rgb.*", "picture")
    scene, image = (int(number) for number in numbered.groups())
    entries = _entries(path, key, parts, truth_wanted)
    return make_image(scene, image, rgb, _picture(parts, "depth"), entries)


def _picture(parts: dict[str, Source], modality: str) -> Source | None:
    return next((parts[part] for part in sorted(parts) if part.startswith(f"{modality}.")), None)


def _entries(path: Path, key: str, parts: dict[str, Source], truth_wanted: bool) -> Entries:
    where = {part: f"{path}:{key}.{part}.json" for part in ("camera", "gt", "gt_info")}
    for part in ("camera", "gt") if truth_wanted else ("camera",):
        if f"{part}.json" not in parts:
            raise DatasetError(f"{where[part]}: no such member")
    camera, truths, infos = (
        parsed(parts[f"{part}.json"].read("json"), name) if f"{part}.json" in parts else None
        for part, name in where.items()
    )
    source = parts.get("mask_visib.json")
    masks = {}
    if source and truths is not None:
        masks = {k: Mask(source, str(k)) for k in range(len(as_list(truths, where["gt"])))}
    return Entries(camera, truths, infos, masks, where)
