# SPDX-License-Identifier: Apache-2.0
"""The layout of scene folders: <split>/000002/{rgb|gray, depth, mask_visib}/ and one json file a subject."""

from __future__ import annotations

from pathlib import Path

from ..faults import DatasetError, Faults
from ..source import Mask, Source
from ..values import as_list, as_object, field, read_json
from .image import BopImage, Entries, make_image


def load_scene(folder: Path, faults: Faults | None = None, truth_wanted: bool = True) -> list[BopImage]:
    """All images of one scene folder, by number. scene_gt_info.json, masks and depth may be absent.

    faults: records what is wrong and decides whether to go on; without it DatasetError is raised.
    truth_wanted: False where scene_gt.json may be absent, too.
    """
    faults = faults or Faults()
    try:
        scene = _Scene(Path(folder), truth_wanted)
    except DatasetError as error:
        faults.add(DatasetError(str(error), "scene"))
        return []
    images = []
    for key in scene.cameras if scene.truths is None else scene.truths:
        try:
            images.append(scene.image(key))
        except DatasetError as error:
            faults.add(error)
    return sorted(images, key=lambda image: image.image_id)


class _Scene:
    """The json files and the names of the files of one scene."""

    def __init__(self, folder: Path, truth_wanted: bool = True) -> None:
        self.folder = folder
        self.cameras = self._json("scene_camera.json")
        has_truth = truth_wanted or (folder / "scene_gt.json").exists()
        self.truths = self._json("scene_gt.json") if has_truth else None
        self.infos = self._json("scene_gt_info.json") if (folder / "scene_gt_info.json").exists() else None
        self.files = {part: _by_stem(folder / part) for part in ("rgb", "gray", "depth", "mask_visib")}
        self.files["rgb"] = self.files["rgb"] or self.files["gray"]

    @property
    def source(self) -> str:
        """The file that says which images there are."""
        return "scene_camera.json" if self.truths is None else "scene_gt.json"

    def _json(self, name: str) -> dict:
        path = self.folder / name
        others = sorted(p.name for p in self.folder.glob(f"{path.stem}_*.json") if "info" not in p.name)
        if not path.exists() and others:
            raise DatasetError(f"{path}: wanted one sensor's scene, found {others[0]}: of several sensors")
        return as_object(read_json(path), path)

    def image(self, key: str) -> BopImage:
        if not key.isdigit():
            raise DatasetError(f"{self.folder / self.source}: image number {key!r} is not a number")
        stem = f"{int(key):06d}"
        if stem not in self.files["rgb"]:
            missing = f"image {key} of {self.source} has no picture rgb/{stem}.*"
            raise DatasetError(f"{self.folder}: {missing}", "picture")
        rgb, path = Source(self.files["rgb"][stem]), self.files["depth"].get(stem)
        depth = Source(path) if path else None
        return make_image(int(self.folder.name), int(key), rgb, depth, self._entries(key))

    def _entries(self, key: str) -> Entries:
        path = {part: self.folder / f"scene_{part}.json" for part in ("camera", "gt", "gt_info")}
        where = {part: f"{p}, image {key}" for part, p in path.items()}
        truths = None if self.truths is None else as_list(self.truths[key], where["gt"])
        masks = {k: self.files["mask_visib"].get(f"{int(key):06d}_{k:06d}") for k in range(len(truths or ()))}
        return Entries(
            field(self.cameras, key, path["camera"]),
            truths,
            None if truths is None or self.infos is None else field(self.infos, key, path["gt_info"]),
            {k: Mask(Source(mask)) for k, mask in masks.items() if mask},
            where,
        )


def _by_stem(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in folder.iterdir()} if folder.is_dir() else {}
