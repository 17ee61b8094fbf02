# SPDX-License-Identifier: Apache-2.0
"""Balance the teacher's terms against the task's, by their gradients at the encoder's features.

Weights of distillation losses cannot be compared between methods: a loss in squared crop sizes and one in
logits may need weights that differ by a factor of a thousand. The gradients at the features, which all losses
share, can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from ..losses.means import total
from ..models.base import Network

BEGINS = 0.1  # with a wanted ratio: share of the steps before the first taught terms
MEASURED = 10  # steps over which the ratio is averaged
PATIENCE = 100  # steps without a measurement after which a run is refused
TAUGHT = ("kd_", "online")  # the names of terms that come from a teacher or an ensemble begin with these


def is_taught(name: str) -> bool:
    return name.startswith(TAUGHT)


@dataclass
class Balance:
    """The factor of a run's distillation weights.

    wanted: norm of the taught terms' gradient over that of the task's; None leaves the weights as they are.
    steps: of the run. ratios: those measured so far. The first MEASURED steps after the share BEGINS only
    measure: they minimise only the task's terms.
    """

    wanted: float | None
    steps: int
    ratios: list[float] = field(default_factory=list)

    def teaches(self, step: int) -> bool:
        """Whether a step computes the taught terms."""
        return self.wanted is None or step >= BEGINS * self.steps

    def measures(self, step: int) -> bool:
        """Whether a step only measures."""
        return self.wanted is not None and self.teaches(step) and len(self.ratios) < MEASURED

    @property
    def factor(self) -> float:
        """The wanted ratio over the geometric mean of the measured ones; the weights are multiplied by it.
        Convention: 0.5 wanted, 10 measured: 0.05."""
        if self.wanted is None or len(self.ratios) < MEASURED:
            return 1.0
        return self.wanted / math.exp(sum(map(math.log, self.ratios)) / len(self.ratios))

    def add(self, step: int, ratio: float) -> None:
        """Record the ratio of a step that measures, unless nothing was taught in it.

        Raises ValueError after PATIENCE steps without a ratio.
        """
        if ratio > 0 and math.isfinite(ratio):
            self.ratios.append(ratio)
        elif step > BEGINS * self.steps + PATIENCE and not self.ratios:
            raise ValueError(
                f"distill.ratio, online.ratio: wanted a teacher that teaches, found no gradient of it in "
                f"{PATIENCE} steps; a lower --distill.teacher-score may help"
            )


@contextmanager
def watched_features(network: Network) -> Iterator[list[torch.Tensor]]:
    """Yield a list that holds, after a forward pass, the encoder's features that require a gradient."""
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

    terms: weighted, by name. The graph is kept. Raises ValueError if no feature learns.
    """
    if not features:
        raise ValueError("distill.ratio, online.ratio: wanted an encoder that learns, found a frozen one")
    norms = []
    for taught in (True, False):
        loss = total(term for name, term in terms.items() if is_taught(name) is taught)
        gradients = torch.autograd.grad(loss, features, retain_graph=True, allow_unused=True)
        norms.append(torch.stack([g.float().square().sum() for g in gradients if g is not None]).sum().sqrt())
    return norms[0] / norms[1].clamp(min=1e-20)


def _tensors(outputs) -> Iterator[torch.Tensor]:
    if isinstance(outputs, torch.Tensor):
        yield outputs
    elif isinstance(outputs, (list, tuple)):
        for each in outputs:
            yield from _tensors(each)
