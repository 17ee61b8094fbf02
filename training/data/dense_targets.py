# SPDX-License-Identifier: Apache-2.0
"""Targets of the dense family: which pixels see which instance, and which point of it."""

from __future__ import annotations

import numpy as np
import torch

from pose_kd_ros.core.camera import Crop
from pose_kd_ros.core.object_model import ObjectModel, representatives

from .objects import MAX_TIED
from .surface import CodeReader

BACKGROUND, UNUSED = -1, -2


def make_dense_targets(
    class_indices: list[int], used: list[bool], tied: list[int], labels: np.ndarray, codes: np.ndarray
) -> dict[str, torch.Tensor]:
    """Return one crop's targets.

    labels (h, w): 1 + the index of the instance that an output pixel sees, 0 for none. codes (R, h, w) of
    each representative; of instance i the first ``tied[i]`` count.

    instance_map (h, w): index of the instance, BACKGROUND, or UNUSED where one is hidden too much to be
    learnt. class_index (I,). code_maps (M, h, w) and map_instance (M,): the codes of every representative.
    """
    instance_map = labels.astype(np.int64) - 1
    instance_map[np.isin(instance_map, [i for i, use in enumerate(used) if not use])] = UNUSED
    maps = [(r, i) for i, count in enumerate(tied) if used[i] for r in range(count)]
    return {
        "instance_map": torch.from_numpy(instance_map),
        "class_index": torch.tensor(class_indices, dtype=torch.int64),
        "code_maps": torch.from_numpy(codes[[r for r, _ in maps]].astype(np.int32)),
        "map_instance": torch.tensor([i for _, i in maps], dtype=torch.int64),
    }


class CodeTargets:
    """Targets of the dense family on a grid of ``stride`` pixels."""

    always_an_object, needs_depth = False, True

    def __init__(self, models: list[ObjectModel], stride: int, reader: CodeReader):
        self.models, self.stride, self.reader = models, stride, reader
        self.class_of = {model.id: index for index, model in enumerate(models)}
        self.collate = collate_dense

    def make(self, view, _rng) -> dict[str, torch.Tensor]:
        """Return the targets of a ``crops.CropView``."""
        seen = view.tile.cut(self._grid(view.crop), wide=False)
        labels = {i.label for i in seen.instances}
        known = [(i, used) for i, used in zip(view.instances, view.used) if i.label in labels]
        if seen.codes is None:
            seen = seen.coded(self.reader)
        number = np.zeros(256, np.uint8)
        for index, (instance, _) in enumerate(known):
            number[instance.label] = 1 + index
        classes = [self.class_of[i.object_id] for i, _ in known]
        poses = [i.T_camera_object for i, _ in known]
        tied = [min(MAX_TIED, len(representatives(p, self.models[c]))) for p, c in zip(poses, classes)]
        used = [used for _, used in known]
        return make_dense_targets(classes, used, tied, number[seen.labels], seen.codes)

    def _grid(self, crop: Crop) -> Crop:
        """Return the same region with one pixel for each of the network's outputs."""
        n = self.stride
        return Crop(crop.left, crop.top, crop.scale / n, crop.width // n, crop.height // n)


def collate_dense(samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Stack images and instance maps, concatenate the rest, instances counted through. Added: ``map_image``
    (M,) and ``instance_image`` (I,)."""
    counts = torch.tensor([len(s["class_index"]) for s in samples])
    first = counts.cumsum(0) - counts
    maps = [
        torch.where(s["instance_map"] >= 0, s["instance_map"] + f, s["instance_map"])
        for s, f in zip(samples, first)
    ]
    instance_image = torch.repeat_interleave(torch.arange(len(samples)), counts)
    map_instance = torch.cat([s["map_instance"] + f for s, f in zip(samples, first)])
    return {
        "image": torch.stack([s["image"] for s in samples]),
        "instance_map": torch.stack(maps),
        "class_index": torch.cat([s["class_index"] for s in samples]),
        "code_maps": torch.cat([s["code_maps"] for s in samples]),
        "map_instance": map_instance,
        "map_image": instance_image[map_instance],
        "instance_image": instance_image,
    }
