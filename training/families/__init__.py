# SPDX-License-Identifier: Apache-2.0
"""The families of networks. To add one: write its class and add it to ``FAMILIES``; see ``base.Family``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..models.base import Network
from ..models.dense import DenseConfig
from ..models.heatmap import HeatmapConfig
from ..models.keypoint import NetworkConfig
from ..models.surface import SurfaceConfig
from .base import Distillation, Family, Supervision, TrainingData
from .dense import Dense
from .heatmap import Heatmap
from .keypoint import Keypoint
from .people import People
from .surface import Surface

if TYPE_CHECKING:
    from ..config import RunConfig

AnyNetwork = NetworkConfig | DenseConfig | HeatmapConfig | SurfaceConfig
CONFIGS = {
    "keypoint": NetworkConfig,
    "dense": DenseConfig,
    "heatmap": HeatmapConfig,
    "surface": SurfaceConfig,
}
FAMILIES: dict[str, Family] = {each.name: each for each in (Keypoint(), Dense(), Heatmap(), Surface())}
PEOPLE = People()

__all__ = ["CONFIGS", "FAMILIES", "AnyNetwork", "Distillation", "Family", "Supervision", "TrainingData"]


def family_of(run: RunConfig) -> Family:
    """Return the family of a run."""
    return PEOPLE if run.people else FAMILIES[run.network.family]


def make_network(config: AnyNetwork) -> Network:
    """Build the network of a configuration with random weights."""
    return FAMILIES[config.family].make_network(config)


def deployed(network: Network) -> Network:
    """Return the network that the robot gets: a plain one on the CPU, in the same mode, with the weights of
    the shared part and of branch 0."""
    plain, state = make_network(network.config.plain), network.state_dict()
    plain.load_state_dict({name: state[name] for name in plain.state_dict()})
    return plain.train(network.training)
