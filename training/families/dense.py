# SPDX-License-Identifier: Apache-2.0
"""The dense family: for every other pixel, whether it sees an object, and the surface code of the point."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from pose_kd_ros.bundle.manifest import surface_file

from ..data.crops import CropDataset
from ..data.dense_targets import CodeTargets
from ..data.surface import code_reader, fingerprints, load_surface
from ..losses.dense import dense_losses, meant_maps, remember
from ..losses.distill_dense import code_terms
from ..models.dense import DenseConfig, DenseNetwork
from .base import Defaults, Supervision, check_classes, crops_of

if TYPE_CHECKING:
    from ..config import RunConfig


class Dense(Defaults):
    """See ``base.Family``."""

    name = "dense"
    cell_score = 0.5

    def check(self, run: RunConfig) -> None:
        super().check(run)
        if run.crops.roll_deg or run.crops.paste.share:
            raise ValueError(
                "crops.roll_deg, crops.paste.share: wanted 0 for the dense family's codes, "
                f"found {run.crops.roll_deg:g}, {run.crops.paste.share:g}"
            )

    def make_network(self, config: DenseConfig) -> DenseNetwork:
        return DenseNetwork(config)

    def make_dataset(self, run: RunConfig, split: str, val: bool) -> CropDataset | None:
        if not split:
            return None
        objects = run.load_objects()
        check_classes(run, objects)
        reader = code_reader(run.data / "models", objects)
        return crops_of(run, split, objects, CodeTargets(objects, run.network.strides[0], reader), reader)

    def loss_terms(
        self, outputs, batch: dict[str, torch.Tensor], network: DenseNetwork, how: Supervision
    ) -> dict[str, torch.Tensor]:
        terms: dict[str, torch.Tensor] = {}
        choice = None
        if how.distillation:
            choice = meant_maps(how.teacher_outputs[1], batch, network.bit_error)
            terms = code_terms(outputs, how.teacher_outputs, batch, how.distillation.config)
        mask, codes = outputs[:2]
        task, wrong = dense_losses(mask, codes, batch, network.bit_error, choice)
        if torch.is_grad_enabled():
            remember(network.bit_error, wrong)
        return task | terms

    def fingerprints(self, run: RunConfig) -> dict[int, str]:
        return fingerprints(run.data / "models", run.load_objects())

    def output_names(self, config: DenseConfig) -> list[str]:
        return ["mask", "codes"]

    def deploy(self, outputs) -> tuple[torch.Tensor, ...]:
        mask, codes = outputs
        return mask.sigmoid(), codes.sigmoid()

    def bundle_files(self, run: RunConfig, folder: Path) -> dict[str, Path]:
        """Write each object's surface points by their codes."""
        models, files = run.data / "models", {}
        for model in run.load_objects():
            path = folder / surface_file(model.id)
            np.savez_compressed(path, points=load_surface(models, model.id).points)
            files[path.name] = path
        return files
