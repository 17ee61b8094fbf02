# SPDX-License-Identifier: Apache-2.0
"""The surface family: for every fourth pixel the object, the point of it, and the point's uncertainty."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..data.compose import ComposedDataset, SurfaceTargets
from ..losses.surface import surface_losses
from ..models.surface import Surface as Outputs
from ..models.surface import SurfaceConfig, SurfaceNetwork
from .base import Defaults, Supervision, check_classes, composed_crops

if TYPE_CHECKING:
    from ..config import RunConfig


class Surface(Defaults):
    """See ``base.Family``."""

    name = "surface"
    searches = votes_scale = True
    cell_score = 0.5

    def make_network(self, config: SurfaceConfig) -> SurfaceNetwork:
        return SurfaceNetwork(config)

    def make_dataset(self, run: RunConfig, split: str, val: bool) -> ComposedDataset | None:
        """Return crops composed of object views; val: of other views on other photographs."""
        objects = run.load_objects()
        check_classes(run, objects)
        return composed_crops(run, objects, SurfaceTargets(objects, run.network.strides[0]), val)

    def loss_terms(
        self, outputs, batch: dict[str, torch.Tensor], network: SurfaceNetwork, how: Supervision
    ) -> dict[str, torch.Tensor]:
        return surface_losses(outputs[0], batch)

    def teaching(self, outputs) -> Outputs:
        return Outputs(*(part.detach() for part in outputs[0]))

    def output_names(self, config: SurfaceConfig) -> list[str]:
        return ["mask", "points", "scale"]

    def deploy(self, outputs: Outputs) -> tuple[torch.Tensor, ...]:
        return outputs.mask.sigmoid(), outputs.points, outputs.log_scale.exp()

    def describe_data(self, run: RunConfig) -> list[str]:
        pictures = run.compose.pictures
        return [f"composed on {f'photographs: {pictures.name}' if pictures else 'procedural pictures'}"]
