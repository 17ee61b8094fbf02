# SPDX-License-Identifier: Apache-2.0
"""The interface of a family: a kind of network, from its targets to its place in the bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from pose_kd_ros.datasets.faults import Faults

from ..data.compose import ComposedDataset, ComposedTargets
from ..data.crops import CropDataset, Targets
from ..data.people_crops import PeopleDataset
from ..data.splits import load_split
from ..data.surface import CodeReader
from ..data.views import Views
from ..losses.distill import DistillConfig
from ..losses.online import OnlineConfig
from ..models.base import Network

if TYPE_CHECKING:
    from pose_kd_ros.core.object_model import ObjectModel

    from ..config import LossWeights, RunConfig

TrainingData = CropDataset | ComposedDataset | PeopleDataset
ALONE = OnlineConfig()  # branches, if any, do not teach each other
WATCHED = ("kd_unsolved", "online_unsolved", "online_ratio")  # terms that are logged and have no weight


@dataclass(frozen=True)
class Distillation:
    """How a student learns from its teacher. features: FKD's layers, which train with the student."""

    config: DistillConfig
    features: nn.Module | None = None


@dataclass(frozen=True)
class Supervision:
    """What a network learns from, besides the targets of its batch.

    teacher_outputs: the teacher's outputs for the same images, for ``distillation``. watch: also compute
    figures that are only logged, and take time.
    """

    weights: LossWeights
    distillation: Distillation | None = None
    teacher_outputs: Any = None
    online: OnlineConfig = ALONE
    watch: bool = False


class Family(Protocol):
    """All that differs between families.

    ``run``: the settings of a run; ``config``: those of its network. Outputs, networks and their
    configurations are those of the family.
    """

    name: str
    """As in the manifest."""
    searches: bool
    """Whether a network finds objects in a whole frame, without a locator."""
    votes_scale: bool
    """Whether export fits the scale of the votes (``vote_scale`` in the manifest)."""
    cell_score: float
    """Lowest score of a local prediction that the robot uses."""

    def check(self, run: RunConfig) -> None:
        """Raise ValueError for settings that do not fit together."""

    def make_network(self, config: Any) -> Network:
        """Build the network with random weights."""

    def make_dataset(self, run: RunConfig, split: str, val: bool) -> TrainingData | None:
        """Return the samples of a split; None for an empty name. val: for validation, not to train on."""

    def loss_terms(
        self, outputs: Any, batch: dict[str, torch.Tensor], network: Any, how: Supervision
    ) -> dict[str, torch.Tensor]:
        """Return the named loss terms of a network's outputs for a batch."""

    def teaching(self, outputs: Any) -> Any:
        """Return the part of the outputs that students learn from, detached."""

    def feature_layers(self, distill: DistillConfig, teacher: Any, student: Any) -> nn.Module | None:
        """Build FKD's layers for two network configurations, if the method has them.

        Raises ValueError for a method that the family does not have.
        """

    def check_teacher(self, teacher: Any, student: Any) -> None:
        """Raise ValueError if a network configuration cannot teach another one."""

    def fingerprints(self, run: RunConfig) -> dict[int, str]:
        """Return hashes, by object id, of the files that a checkpoint cannot be used without."""

    def output_names(self, config: Any) -> list[str]:
        """Return the names of the deployed network's outputs."""

    def deploy(self, outputs: Any) -> tuple[torch.Tensor, ...]:
        """Return the deployed branch's outputs as the robot gets them: probabilities instead of logits."""

    def bundle_files(self, run: RunConfig, folder: Path) -> dict[str, Path]:
        """Write the files that the bundle needs besides networks to ``folder``; return them by name."""

    def describe_network(self, config: Any) -> str:
        """Describe a network in words."""

    def describe_data(self, run: RunConfig) -> list[str]:
        """Describe, in words, what the data set's own description leaves out of a run's data."""


class Defaults:
    """What most families have in common."""

    name: str
    searches = votes_scale = False

    def check(self, run: RunConfig) -> None:
        check_no_kl(run)
        if run.online.teacher != "none":
            raise ValueError(
                f"online.teacher: wanted none for the {self.name} family, which has no branches; "
                f"found {run.online.teacher}"
            )

    def teaching(self, outputs) -> Any:
        first, second, levels = outputs[:3]
        return first.detach(), second.detach(), [level.detach() for level in levels]

    def feature_layers(self, distill: DistillConfig, _teacher, _student) -> nn.Module | None:
        if distill.wants_features:
            raise ValueError(
                f"distill.method: wanted naive or adlp for the {self.name} family, found {distill.method}"
            )
        return None

    def check_teacher(self, teacher, student) -> None:
        pass

    def fingerprints(self, run: RunConfig) -> dict[int, str]:
        return {}

    def bundle_files(self, run: RunConfig, folder: Path) -> dict[str, Path]:
        return {}

    def describe_network(self, config) -> str:
        return f"{config.backbone}, width {config.width}"

    def describe_data(self, run: RunConfig) -> list[str]:
        return []


def check_no_kl(run: RunConfig) -> None:
    """Raise ValueError for a method that only heatmaps have."""
    if run.distill.method == "kl":
        raise ValueError(f"distill.method kl: wanted the heatmap family, found {run.network.family}")


def check_classes(run: RunConfig, objects: Sequence[ObjectModel]) -> None:
    """Raise ValueError if the network is for another number of objects than the data has."""
    if len(objects) != run.network.classes:
        raise ValueError(
            f"network.classes: wanted {len(objects)}, the objects of {run.data}, found {run.network.classes}"
        )


def crops_of(
    run: RunConfig, split: str, objects: list[ObjectModel], targets: Targets, reader: CodeReader | None = None
) -> CropDataset:
    """Return crops of a BOP split; only the training split is cut into tiles.

    Raises ValueError where crops are to be composed: these targets are not made for them.
    """
    if run.compose.views:
        raise ValueError(
            f"compose.views: wanted no object views for the {run.network.family} family, found some"
        )
    faults, tile_px = Faults(run.faults), run.tile_px if split == run.split else 0
    images = load_split(run.data / split, objects, faults, tile_px, run.seed, run.cache, reader)
    return CropDataset(images, objects, targets, run.crops, run.seed, faults, run.data / split)


def composed_crops(
    run: RunConfig, objects: list[ObjectModel], targets: ComposedTargets, val: bool
) -> ComposedDataset | None:
    """Return crops composed of object views; val: of other views on other photographs."""
    split = run.compose.val_split if val else run.split
    if not split:
        return None
    return ComposedDataset(
        Views(run.data / split), objects, targets, run.crops, run.compose, run.seed, held_out=val
    )
