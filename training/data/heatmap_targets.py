# SPDX-License-Identifier: Apache-2.0
"""Targets of the heatmap family: where the keypoints of the object that a crop is about are."""

from __future__ import annotations

import numpy as np
import torch

from pose_kd_ros.core.camera import project_pinhole
from pose_kd_ros.core.object_model import ObjectModel, canonical
from pose_kd_ros.core.pose import transform

from .compose import Composed

NOWHERE = -1e4  # pixels: where keypoints are put that are not in the crop


def make_points(
    class_index: int,
    model: ObjectModel,
    pose: np.ndarray | None,
    K: np.ndarray,
    size: tuple[int, int],
    absent: np.ndarray,
) -> dict[str, torch.Tensor]:
    """Return ``points`` (K, 2), pixels of the crop, of the object's keypoints in its canonical pose;
    ``visible`` (K,), 1 for those in the crop (height, width), behind something or not; ``class_index`` ();
    ``absent`` (C,), as given: 1 for classes whose maps are to be empty.

    pose: T_camera_object, or None where the crop is about no object: then nothing is visible.
    """
    count = len(model.keypoints)
    points = np.full((count, 2), NOWHERE)
    visible = np.zeros(count, bool)
    if pose is not None:
        points = project_pinhole(K, transform(canonical(pose, model), model.keypoints))
        height, width = size
        with np.errstate(invalid="ignore"):
            visible[:] = ((points > -0.5) & (points < (width - 0.5, height - 0.5))).all(1)
        points = np.where(visible[:, None], points, NOWHERE)
    return {
        "points": torch.from_numpy(points.astype(np.float32)),
        "visible": torch.from_numpy(visible.astype(np.float32)),
        "class_index": torch.tensor(class_index),
        "absent": torch.from_numpy(absent.astype(np.float32)),
    }


class PointTargets:
    """Targets of the heatmap family."""

    always_an_object, needs_depth = True, False
    stride = 4  # of composed crops, where masks say only what is seen at all

    def __init__(self, models: list[ObjectModel]):
        self.models = models
        self.class_of = {model.id: index for index, model in enumerate(models)}
        self.collate = collate_points

    def make(self, view, _rng) -> dict[str, torch.Tensor]:
        """Return the targets of a ``crops.CropView``."""
        absent = np.ones(len(self.models), bool)
        absent[[self.class_of[i.object_id] for i in view.instances]] = False
        index = self.class_of[view.about.object_id] if view.about else 0
        pose = view.about.T_camera_object if view.about else None
        crop = view.crop
        K, size = crop.camera(view.tile.K), (crop.height, crop.width)
        return make_points(index, self.models[index], pose, K, size, absent)

    def of_composed(self, crop: Composed, _rng) -> dict[str, torch.Tensor]:
        """Return the targets of a composed crop."""
        absent = np.ones(len(self.models), bool)
        shown = [layer.view.object_id for layer in crop.layers]
        absent[[self.class_of[i] for i in shown if i in self.class_of]] = False
        size = crop.size, crop.size
        if crop.about is None or not crop.is_used(crop.about):
            return make_points(0, self.models[0], None, np.eye(3), size, absent)
        about = crop.layers[crop.about]
        index = self.class_of[about.view.object_id]
        return make_points(index, self.models[index], about.pose, about.K, size, absent)


def collate_points(samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Stack everything: image (B, 3, H, W), points (B, K, 2), visible (B, K), class_index (B,),
    absent (B, C)."""
    return {name: torch.stack([s[name] for s in samples]) for name in samples[0]}
