# SPDX-License-Identifier: Apache-2.0
"""The network that the robot runs, from a run's last checkpoint, and its file."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pose_kd_ros.pipeline.network import OnnxNetwork

from ..config import RunConfig
from ..families import FAMILIES, deployed, make_network
from ..fit import checkpoint
from ..fit.teacher import check_fingerprints
from ..models.base import Network
from .onnx import HALF_PARITY, check_parity, with_half_weights, with_old_opset, without_traces, write_onnx


class WrittenNetwork(NamedTuple):
    """A network in its file, as the robot runs it."""

    engine: OnnxNetwork
    step: int
    parameters: int
    gflop: float
    """For one crop."""


def write_network(config: RunConfig, path: Path) -> WrittenNetwork:
    """Write the network of the run's last checkpoint; raise ValueError if the file deviates from torch."""
    network, step = trained_network(config)
    (width, height), stride = config.input_size, config.network.input_stride
    write_onnx(network, path, max(width, height), stride, network.output_names)
    without_traces(path)
    with_old_opset(path)
    engine = OnnxNetwork(path)
    for shape in ((height, width), (2 * stride, 3 * stride)):
        check_parity(network, engine, *shape)
    with_half_weights(path)
    engine = OnnxNetwork(path)
    check_parity(network, engine, height, width, HALF_PARITY)
    return WrittenNetwork(engine, step, *cost(network, (width, height)))


def trained_network(config: RunConfig) -> tuple[Deployed, int]:
    """Return the run's network in its deployed form, ready to run, and the step of its checkpoint."""
    last = config.folder / "last.ckpt"
    if not last.exists():
        raise ValueError(f"{last}: wanted a checkpoint, found none; train the run first")
    state = checkpoint.load(last)
    check_fingerprints(last, state.get("surfaces", {}), config)
    network = make_network(config.network)
    network.load_state_dict(checkpoint.trained_weights(state))
    return Deployed(network).eval(), state["step"]


class Deployed(nn.Module):
    """The network as the robot runs it: the deployed branch, probabilities instead of logits."""

    def __init__(self, network: Network):
        super().__init__()
        config, self.family = network.config, FAMILIES[network.config.family]
        self.network, self.output_names = deployed(network), self.family.output_names(config)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.family.deploy(self.network(image))


def cost(network: nn.Module, size: tuple[int, int], with_features: bool = False) -> tuple[int, float]:
    """Return (parameters, GFLOP) for an input of ``size`` (width, height); a multiply-add counts as 2.

    with_features: count all outputs that training needs, not the deployed branch alone.
    """
    inputs = torch.zeros(1, 3, *size[::-1])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(inputs, with_features=True) if with_features else network(inputs)
    return sum(p.numel() for p in network.parameters()), counter.get_total_flops() / 1e9
