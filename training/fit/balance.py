# SPDX-License-Identifier: Apache-2.0
"""How hard a teacher pulls beside the labels, measured where it counts: at what the encoder makes.

The weight of a distillation loss says nothing by itself: one in squared crop sizes and one in logits may need
weights that are a thousand times apart. What can be compared between methods is the gradient that reaches the
features which all losses share.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

BEGINS = 0.1  # of the steps: with a ratio to reach, nothing is taught before
MEASURED = 10  # steps whose mean decides
PATIENCE = 100  # steps without a measurement after which a run is refused
TAUGHT = ("kd_", "online")  # names of the terms that a teacher, or an ensemble, is behind begin so


def is_taught(name: str) -> bool:
    return name.startswith(TAUGHT)


@dataclass
class Balance:
    """The factor of a run's distillation weights.

    wanted: norm of the taught terms' gradient over that of the task's; None leaves the weights as they are.
    steps: of the run. ratios: as measured so far. After BEGINS of the steps the first MEASURED only measure.
    """

    wanted: float | None
    steps: int
    ratios: list[float] = field(default_factory=list)

    def teaches(self, step: int) -> bool:
        """Whether the taught terms are looked at in a step."""
        return self.wanted is None or step >= BEGINS * self.steps

    def measures(self, step: int) -> bool:
        """Whether a step only measures."""
        return self.wanted is not None and self.teaches(step) and len(self.ratios) < MEASURED

    @property
    def factor(self) -> float:
        """What the weights are multiplied by: with the geometric mean of the measured ratios it makes the
        wanted one. Convention: 0.5 wanted, 10 measured: 0.05."""
        if self.wanted is None or len(self.ratios) < MEASURED:
            return 1.0
        return self.wanted / math.exp(sum(map(math.log, self.ratios)) / len(self.ratios))

    def add(self, step: int, ratio: float) -> None:
        """Take the ratio of a step that measures; a step in which nothing was taught says nothing.

        Raises ValueError after PATIENCE steps that said nothing.
        """
        if ratio > 0 and math.isfinite(ratio):
            self.ratios.append(ratio)
        elif step > BEGINS * self.steps + PATIENCE and not self.ratios:
            raise ValueError(
                f"distill.ratio, online.ratio: wanted a teacher that teaches, found no gradient of it in "
                f"{PATIENCE} steps; a lower --distill.teacher-score may help"
            )


@contextmanager
def watched_features(network: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Yield a list that holds, after a forward pass, the features that the network's encoder made."""
    found: list[torch.Tensor] = []

    def keep(_module, _inputs, outputs) -> None:
        found.extend(tensor for tensor in _tensors(outputs) if tensor.requires_grad)

    handle = network.backbone.register_forward_hook(keep)
    try:
        yield found
    finally:
        handle.remove()


def gradient_ratio(terms: Mapping[str, torch.Tensor], features: list[torch.Tensor]) -> torch.Tensor:
    """Return the norm () of the taught terms' gradient at the features over that of the task's.

    terms: weighted, by name. The graph is kept. Raises ValueError where no feature learns.
    """
    if not features:
        raise ValueError("distill.ratio, online.ratio: wanted an encoder that learns, found a frozen one")
    norms = []
    for taught in (True, False):
        total = sum(term for name, term in terms.items() if is_taught(name) is taught)
        gradients = torch.autograd.grad(total, features, retain_graph=True, allow_unused=True)
        norms.append(torch.stack([g.float().square().sum() for g in gradients if g is not None]).sum().sqrt())
    return norms[0] / norms[1].clamp(min=1e-20)


def _tensors(outputs) -> Iterator[torch.Tensor]:
    if isinstance(outputs, torch.Tensor):
        yield outputs
    elif isinstance(outputs, (list, tuple)):
        for each in outputs:
            yield from _tensors(each)
