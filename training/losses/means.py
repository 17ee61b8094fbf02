# SPDX-License-Identifier: Apache-2.0
"""What several processes that share a batch need for the figures of one process with all of it.

Each sums over its own crops and divides by ``shared_mean`` of the counts; the mean over the processes, which
is what is taken of gradients, is then that of the whole batch.
"""

from __future__ import annotations

import torch
from torch import distributed


def processes() -> int:
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def shared_mean(count: torch.Tensor | int, like: torch.Tensor) -> torch.Tensor | int:
    """Return the mean over the processes of a count; as it is with one process. Every process must call it as
    often as the others. like: a tensor on the device that sends."""
    if processes() == 1:
        return count
    total = torch.as_tensor(count, dtype=torch.float32).to(like.device).clone().detach()
    distributed.all_reduce(total)
    return total / processes()


def at_least_one(count: torch.Tensor | int) -> torch.Tensor | float:
    """A denominator for a mean over nothing: 0 of 0 is 0."""
    least = 1.0 / processes()
    return count.clamp(min=least) if isinstance(count, torch.Tensor) else max(count, least)
