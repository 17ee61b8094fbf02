# SPDX-License-Identifier: Apache-2.0
"""Cost of a training run: wall time, step time, memory."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn


@dataclass
class Cost:
    """``before``: seconds of earlier calls. Runs side by side share the wall time, not the step time."""

    before: float = 0.0
    began: float = field(default_factory=time.perf_counter)
    samples: list = field(default_factory=list)
    """Milliseconds, or pairs of CUDA events that may not have happened yet."""
    peak: float = 0.0
    """MB."""
    waited: float = 0.0
    """Seconds that the loop waited for batches since this call began."""

    @contextmanager
    def sample(
        self, device: torch.device, modules: Iterable[nn.Module], optimizers: Iterable[torch.optim.Optimizer]
    ) -> Iterator[None]:
        """Time one step and note its memory, without waiting for the device."""
        if device.type != "cuda":
            start = time.perf_counter()
            yield
            self.samples.append(1e3 * (time.perf_counter() - start))
            self.peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
            return
        events = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        events[0].record()
        yield
        events[1].record()
        self.samples.append(events)
        more = torch.cuda.max_memory_allocated(device) - before
        self.peak = max(self.peak, (more + held(modules, optimizers)) / 1e6)

    def counting_waits(self, batches: Iterable) -> Iterator:
        """Yield the batches and count the time that the loop waits for each."""
        batches = iter(batches)
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - start
            if batch is None:
                return
            yield batch

    def figures(self, crops: int) -> dict[str, float]:
        """Return train_seconds, of all calls; train_crops_per_second, of the loop with all runs side by side;
        train_waiting_share, the share of this call's time that the loop waited for its loaders;
        train_step_ms, for forward, losses, backward and update of this network alone; train_peak_memory_mb,
        on a GPU that of this network alone, on a CPU that of the whole process."""
        seconds = self.before + time.perf_counter() - self.began
        times = [s if isinstance(s, float) else s[0].elapsed_time(s[1]) for s in self.samples[-20:]]
        result = {"train_seconds": seconds, "train_crops_per_second": crops / seconds}
        result["train_waiting_share"] = self.waited / max(seconds - self.before, 1e-9)
        if times:
            result["train_step_ms"] = sorted(times)[len(times) // 2]
            result["train_peak_memory_mb"] = self.peak
        return {name: float(f"{value:.4g}") for name, value in result.items()}


def held(modules: Iterable[nn.Module], optimizers: Iterable[torch.optim.Optimizer]) -> int:
    """Return the bytes of weights, gradients, statistics and the optimizers' state."""
    tensors = [t for m in modules for t in (*m.parameters(), *m.buffers())]
    tensors += [p.grad for m in modules for p in m.parameters() if p.grad is not None]
    states = [s for o in optimizers for state in o.state.values() for s in state.values()]
    tensors += [s for s in states if isinstance(s, torch.Tensor)]
    return sum(t.numel() * t.element_size() for t in tensors)
