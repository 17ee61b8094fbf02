# SPDX-License-Identifier: Apache-2.0
"""Sums and means of losses, also over a batch that several processes share.

Each process sums over its own crops and divides by ``shared_mean`` of the counts. Gradients are averaged over
the processes, so that the result is that of one process with the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import overload

import torch
from torch import distributed


def processes() -> int:
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


@overload
def shared_mean(count: torch.Tensor, like: torch.Tensor) -> torch.Tensor: ...
@overload
def shared_mean(count: int, like: torch.Tensor) -> torch.Tensor | int: ...
def shared_mean(count, like):
    """Return the mean of a count over the processes; with one process the count itself. All processes must
    call it equally often. like: a tensor on the device over which the processes communicate."""
    if processes() == 1:
        return count
    summed = torch.as_tensor(count, dtype=torch.float32).to(like.device).clone().detach()
    distributed.all_reduce(summed)
    return summed / processes()


@overload
def at_least_one(count: torch.Tensor) -> torch.Tensor: ...
@overload
def at_least_one(count: int) -> float: ...
def at_least_one(count):
    """Return a count as a denominator that makes the mean of nothing 0."""
    least = 1.0 / processes()
    return count.clamp(min=least) if isinstance(count, torch.Tensor) else max(count, least)


def total(terms: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return the sum of one or more terms."""
    first, *others = terms
    return sum(others, first)
