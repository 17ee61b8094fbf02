"""A run's last checkpoint as the network that the robot runs, and that network as a file."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pose_kd_ros.pipeline.network import OnnxNetwork

from ..config import RunConfig
from ..fit import checkpoint
from ..fit.learner import trained_weights
from ..fit.teacher import check_surfaces
from ..models.dense import DenseNetwork
from ..models.heatmap import HeatmapNetwork
from ..models.network import AnyNetwork, KeypointNetwork, deployed, make_network
from .onnx import HALF_PARITY, check_parity, with_half_weights, without_traces, write_onnx

OUTPUTS = {"keypoint": ["scores", "offsets"], "dense": ["mask", "codes"], "heatmap": ["heatmaps"]}
OUTPUTS["surface"] = ["mask", "points", "scale"]


class WrittenNetwork(NamedTuple):
    """A network in its file, as the robot runs it.

    gflop: of one crop.
    """

    engine: OnnxNetwork
    step: int
    parameters: int
    gflop: float


def write_network(config: RunConfig, path: Path) -> WrittenNetwork:
    """Write the network of the run's last checkpoint; raises ValueError where it then deviates from torch."""
    deployed, step = trained_network(config)
    (width, height), stride = config.input_size, config.network.input_stride
    write_onnx(deployed, path, max(width, height), stride, outputs_of(config.network))
    without_traces(path)
    engine = OnnxNetwork(path)
    for shape in ((height, width), (2 * stride, 3 * stride)):
        check_parity(deployed, engine, *shape)
    with_half_weights(path)
    engine = OnnxNetwork(path)
    check_parity(deployed, engine, height, width, HALF_PARITY)
    return WrittenNetwork(engine, step, *cost(deployed, (width, height)))


def trained_network(config: RunConfig) -> tuple[Deployed, int]:
    """Return the run's network in its deployed form, ready to run, and the step of its checkpoint."""
    last = config.folder / "last.ckpt"
    if not last.exists():
        raise ValueError(f"{last}: no checkpoint; train the run first")
    state = checkpoint.load(last)
    check_surfaces(last, state.get("surfaces", {}), config)
    network = make_network(config.network)
    network.load_state_dict(trained_weights(state))
    return Deployed(network).eval(), state["step"]


class Deployed(nn.Module):
    """The network as the robot runs it: of several branches the deployed one, probabilities instead of
    logits."""

    def __init__(self, network: KeypointNetwork | DenseNetwork | HeatmapNetwork):
        super().__init__()
        self.network = deployed(network)
        self.family = network.config.family

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = self.network(image)
        if self.family == "heatmap":
            return (outputs,)
        if self.family == "surface":
            return outputs.mask.sigmoid(), outputs.points, outputs.log_scale.exp()
        logits, others, *log_scale = outputs
        if self.family == "dense":
            return logits.sigmoid(), others.sigmoid()
        return logits.sigmoid(), others, *(each.exp() for each in log_scale)


def outputs_of(config: AnyNetwork) -> list[str]:
    """Names of what a network of this configuration gives when deployed."""
    return OUTPUTS[config.family] + (["scales"] if getattr(config, "scale", False) else [])


def cost(network: nn.Module, size: tuple[int, int], with_features: bool = False) -> tuple[int, float]:
    """Return (parameters, GFLOP for an input of ``size``, width and height, a multiply-add counted as 2);
    with_features: of all that training runs of it."""
    inputs = torch.zeros(1, 3, *size[::-1])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(inputs, with_features=True) if with_features else network(inputs)
    return sum(p.numel() for p in network.parameters()), counter.get_total_flops() / 1e9
