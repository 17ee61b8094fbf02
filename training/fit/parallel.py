# SPDX-License-Identifier: Apache-2.0
"""BatchNorm and means of figures over all processes that share a batch."""

from __future__ import annotations

import torch
from lightning.fabric import Fabric
from torch import distributed, nn

from ..losses.means import processes
from ..models.base import AnyModule


class _Sum(torch.autograd.Function):
    """Sum over the processes; in the backward pass their gradients are summed, too."""

    @staticmethod
    def forward(ctx, values: torch.Tensor) -> torch.Tensor:
        values = values.clone()
        distributed.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx, by_sum: torch.Tensor) -> torch.Tensor:
        return _Sum.forward(ctx, by_sum)


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation by the statistics of all processes' crops, on any device (torch's SyncBatchNorm
    needs a GPU); state as nn.BatchNorm2d."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or processes() == 1:
            return super().forward(x)
        values = x.float()
        count = x.numel() // x.shape[1] * processes()
        mean = _Sum.apply(values.sum((0, 2, 3))) / count
        values = values - mean[:, None, None]
        variance = _Sum.apply((values**2).sum((0, 2, 3))) / count
        self._note(mean.detach(), variance.detach() * (count / (count - 1)))
        scale = self.weight / (variance + self.eps).sqrt()
        return (values * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _note(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        assert self.momentum is not None and self.running_mean is not None
        assert self.running_var is not None and self.num_batches_tracked is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        self.num_batches_tracked += 1


def share_statistics(network: AnyModule, device: torch.device) -> AnyModule:
    """Return the network with BatchNorm over all processes' crops; with one process unchanged."""
    if processes() == 1:
        return network
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedBatchNorm2d
    return network


def mean_terms(fabric: Fabric, terms: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the mean of each named value over the processes."""
    means = fabric.all_reduce(terms)
    assert isinstance(means, dict)  # as its argument
    return means
