# SPDX-License-Identifier: Apache-2.0
"""Targets of the keypoint family: which cells vote for which instance, and where its keypoints truly are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch

from pose_kd_ros.core.cells import cell_grid, cells_per_level
from pose_kd_ros.core.object_model import ObjectModel, representatives
from pose_kd_ros.core.pose import transform

from .compose import Composed
from .objects import MAX_TIED
from .tiles import nearest

CellChoice = Literal["all", "draw"]
IGNORE = -1  # cells inside a visible mask that are not learnt: neither background nor votes


@dataclass(frozen=True)
class Instance:
    """One object in one training crop."""

    class_index: int
    pose: np.ndarray
    """T_camera_object (4, 4)."""
    mask: np.ndarray
    """Visible mask (H, W) bool."""
    box_size: float
    """Longer side of its box, pixels."""
    use: bool = True
    """False for an instance that is hidden too much to be learnt: its cells are ignored."""
    K: np.ndarray | None = None
    """The camera (3, 3) that sees it, pixels of the crop; None: the crop's."""


class Cells(NamedTuple):
    """Cells that learn from one instance."""

    vote: np.ndarray
    """(P,) indices of the cells that vote for it."""

    weight: np.ndarray
    """(P,) weight of each vote."""

    drawn: np.ndarray
    """(P,) bool: cells that a random draw of the levels' quota takes."""

    inside: np.ndarray
    """(Q,) indices of all cells in its visible mask."""


def choose_cells(
    instance: Instance,
    centers: np.ndarray,
    anchors: np.ndarray,
    rng: np.random.Generator,
    cells: CellChoice,
) -> Cells:
    """Return the cells of an instance, level by level; none vote for an instance that is not used.

    centers (N, 2), anchors (N,): all cells. cells: as ``CropConfig.cells``.
    """
    u, v = np.round(centers).astype(int).T
    inside = np.flatnonzero(instance.mask[v, u])
    levels = np.unique(anchors)
    quota = cells_per_level(instance.box_size, levels) * instance.use
    of_levels = [
        _of_level(inside[anchors[inside] == anchor], count, rng, cells)
        for anchor, count in zip(levels, quota)
    ]
    vote, weight, drawn = map(np.concatenate, zip(*of_levels))
    return Cells(vote, weight, drawn, inside)


def _of_level(candidates: np.ndarray, quota: int, rng: np.random.Generator, cells: str):
    """Return votes, their weights and which were drawn, of the cells of one level in an instance's mask."""
    count = min(quota, len(candidates))
    drawn = rng.choice(candidates, count, replace=False) if count else candidates[:0]
    if cells == "draw" or not count:
        return drawn, np.ones(count), np.ones(count, bool)
    weight = np.full(len(candidates), count / len(candidates))
    return candidates, weight, np.isin(candidates, drawn)


def tied_keypoints(pose: np.ndarray, model: ObjectModel) -> tuple[np.ndarray, np.ndarray]:
    """Return keypoints (MAX_TIED, K, 3) in the camera frame, metres, of the tied representatives,
    and (MAX_TIED,) bool."""
    poses = representatives(pose, model)[:MAX_TIED]
    keypoints = np.zeros((MAX_TIED, *model.keypoints.shape), np.float32)
    keypoints[: len(poses)] = transform(poses, model.keypoints)
    return keypoints, np.arange(MAX_TIED) < len(poses)


def make_targets(
    instances: list[Instance],
    models: list[ObjectModel],
    K: np.ndarray | None,
    size: tuple[int, int],
    strides: tuple[int, ...],
    rng: np.random.Generator,
    cells: CellChoice = "all",
) -> dict[str, torch.Tensor]:
    """Return the targets of one crop.

    cell_class (N,): 0 background, 1 + class index, or IGNORE. vote_cell, vote_instance (P,): cells that vote,
    and the instance of each vote; vote_weight (P,): its weight; vote_drawn (P,) bool: the papers' draw among
    them, which distillation takes. inside_cell, inside_instance (Q,): all cells in the
    visible masks of instances that are used. quota (I, L): the cells of each level that the papers draw.
    class_index, diameter (I,); keypoints (I, R, K, 3) metres in the camera frame; tied (I, R) bool; K_inverse
    (I, 3, 3).
    """
    centers, anchors = cell_grid(*size, strides)
    cell_class = np.zeros(len(centers), np.int64)
    chosen = [choose_cells(instance, centers, anchors, rng, cells) for instance in instances]
    for each in chosen:
        cell_class[each.inside] = IGNORE
    for instance, each in zip(instances, chosen):
        cell_class[each.vote] = 1 + instance.class_index
    inside = [each.inside if i.use else each.inside[:0] for i, each in zip(instances, chosen)]
    levels = np.unique(anchors)
    quota = [cells_per_level(i.box_size, levels) for i in instances]
    points = [tied_keypoints(i.pose, models[i.class_index]) for i in instances]
    count = len(models[0].keypoints)

    def stack(values, shape, dtype):
        return torch.from_numpy(np.asarray(values, dtype).reshape(-1, *shape))

    def joined(parts, dtype=np.int64):
        return stack(np.concatenate([*parts, []]), (), dtype)

    def owners(parts):
        return joined(np.full(len(part), index) for index, part in enumerate(parts))

    return {
        "cell_class": torch.from_numpy(cell_class),
        "vote_cell": joined(each.vote for each in chosen),
        "vote_instance": owners([each.vote for each in chosen]),
        "vote_weight": joined((each.weight for each in chosen), np.float32),
        "vote_drawn": joined((each.drawn for each in chosen), bool),
        "inside_cell": joined(inside),
        "inside_instance": owners(inside),
        "quota": stack(quota, (len(levels),), np.int64),
        "class_index": stack([i.class_index for i in instances], (), np.int64),
        "diameter": stack([models[i.class_index].diameter for i in instances], (), np.float32),
        "keypoints": stack([k for k, _ in points], (MAX_TIED, count, 3), np.float32),
        "tied": stack([t for _, t in points], (MAX_TIED,), bool),
        "K_inverse": stack([np.linalg.inv(own_camera(i, K)) for i in instances], (3, 3), np.float32),
    }


def own_camera(instance: Instance, shared: np.ndarray | None) -> np.ndarray:
    """Return the camera matrix (3, 3) of an instance: its own, or that of the whole crop."""
    K = shared if instance.K is None else instance.K
    assert K is not None  # a composed crop has no shared one, but all its instances have theirs
    return K


class VoteTargets:
    """Targets of the keypoint family. cells: as ``CropConfig.cells``."""

    always_an_object = needs_depth = False
    stride = 1  # of composed crops: cells are chosen in masks of all pixels

    def __init__(self, models: list[ObjectModel], strides: tuple[int, ...], cells: CellChoice = "all"):
        self.models, self.strides, self.cells = models, strides, cells
        self.class_of = {model.id: index for index, model in enumerate(models)}
        self.collate = collate

    def make(self, view, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """Return the targets of a ``crops.CropView``."""
        crop = view.crop
        labels = nearest(view.tile.labels, crop)
        instances = [
            Instance(
                self.class_of[i.object_id],
                i.T_camera_object,
                labels == i.label,
                i.box_size * crop.scale,
                used,
            )
            for i, used in zip(view.instances, view.used)
        ]
        K, size = crop.camera(view.tile.K), (crop.height, crop.width)
        return make_targets(instances, self.models, K, size, self.strides, rng, self.cells)

    def of_composed(self, crop: Composed, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """Return the targets of a composed crop."""
        instances = [
            Instance(
                self.class_of[layer.view.object_id],
                layer.pose,
                crop.visible(number),
                layer.box_size,
                crop.is_used(number),
                layer.K,
            )
            for number, layer in enumerate(crop.layers)
            if layer.view.object_id in self.class_of
        ]
        size = crop.size, crop.size
        return make_targets(instances, self.models, None, size, self.strides, rng, self.cells)


def collate(samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Stack images and ``cell_class``; concatenate the rest, instances counted through. Added: ``vote_image``
    (P,) and ``instance_image`` (I,)."""
    batch = {name: torch.stack([s[name] for s in samples]) for name in ("image", "cell_class")}
    count = [len(s["class_index"]) for s in samples]
    first = torch.tensor([0, *count[:-1]]).cumsum(0)
    for name in ("vote_instance", "inside_instance"):
        batch[name] = torch.cat([s[name] + start for s, start in zip(samples, first)])
    batch["instance_image"] = torch.repeat_interleave(torch.arange(len(samples)), torch.tensor(count))
    batch["vote_image"] = batch["instance_image"][batch["vote_instance"]]
    for name in (
        "vote_cell",
        "vote_weight",
        "vote_drawn",
        "inside_cell",
        "quota",
        "class_index",
        "diameter",
        "keypoints",
        "tied",
        "K_inverse",
    ):
        batch[name] = torch.cat([s[name] for s in samples])
    return batch
