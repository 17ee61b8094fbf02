# SPDX-License-Identifier: Apache-2.0
"""The one reader of data sets in BOP format
(https://github.com/thodan/bop_toolkit/blob/master/docs/bop_datasets_format.md).

    <root>/models/models_info.json, obj_000001.ply        <root>/test_targets_bop19.json
    <root>/<split>/000002/{rgb|gray, depth, mask, mask_visib}/, scene_camera.json, scene_gt.json,
    scene_gt_info.json
    or <root>/<split>/shard-000000.tar, ..., [key_to_shard.json]

BOP files hold millimetres; everything that leaves this package is in metres. Rotations are projected to
SO(3). Every error is a DatasetError that names the file, the entry and the field.
Convention: "cam_t_m2c": [0, 0, 1000] -> T_camera_object[:3, 3] = (0, 0, 1.0).
"""

from __future__ import annotations

from pathlib import Path

from ..faults import DatasetError, Faults
from .image import BopImage as BopImage
from .image import BopInstance as BopInstance
from .models import BopTarget as BopTarget
from .models import ContinuousSymmetry as ContinuousSymmetry
from .models import ModelInfo as ModelInfo
from .models import load_models_info as load_models_info
from .models import load_targets as load_targets
from .scenes import load_scene as load_scene
from .shards import load_shards, shard_paths


class BopDataset:
    """One split of a data set (<root>/train, <root>/test, ...): `images`, ordered by scene and image number.

    The layout, scene folders or shards, is seen by what is there. Pictures, masks and depth are read when
    they are asked for, the json files here. Raises DatasetError; with `faults` that skip, images that cannot
    be understood are left out, each named in `faults`. truth_wanted: False also takes images whose true poses
    are not published, as those of HB and ITODD.
    """

    def __init__(self, split: Path | str, faults: Faults | None = None, truth_wanted: bool = True) -> None:
        self.root, self.faults = Path(split), faults or Faults()
        scenes = sorted(p for p in self.root.glob("*") if p.is_dir() and p.name.isdigit())
        shards = shard_paths(self.root)
        if bool(scenes) == bool(shards):
            found = f"{len(scenes)} and {len(shards)}" if scenes else "none"
            raise DatasetError(
                f"{self.root}: wanted scene folders (000000, 000001, ...) or shards (shard-000000.tar, ...), "
                f"found {found}: not a BOP split"
            )
        if shards:
            self.images = load_shards(self.root, self.faults, truth_wanted)
        else:
            parts = (load_scene(scene, self.faults, truth_wanted) for scene in scenes)
            self.images = [image for images in parts for image in images]
