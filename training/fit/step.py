# SPDX-License-Identifier: Apache-2.0
"""The forward half of a training step: prepare the images, and compute the named losses of the outputs."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..config import LossWeights
from ..families import FAMILIES, Supervision
from ..families.base import WATCHED
from ..losses.means import total
from ..models.base import Network


@torch.no_grad()
def prepare(
    batch: dict[str, torch.Tensor], augment: Callable[[torch.Tensor], torch.Tensor] | None = None
) -> torch.Tensor:
    """Return a batch's images (B, 3, H, W) uint8 as floats in [0, 1], augmented.

    Each network that learns from the batch normalises them for its encoder.
    """
    images = batch["image"].float() / 255
    return augment(images) if augment else images


def losses(
    outputs, batch: dict[str, torch.Tensor], network: Network, how: Supervision
) -> dict[str, torch.Tensor]:
    """Return the named loss terms of a network's outputs for a batch and their weighted sum, ``total``.

    Every term has a weight of the same name in ``LossWeights``, except those that are only logged. With
    gradients enabled, a dense network's running bit errors are updated.
    """
    terms = FAMILIES[network.config.family].loss_terms(outputs, batch, network, how)
    return terms | {"total": total(weighted(terms, how.weights).values())}


def weighted(terms: dict[str, torch.Tensor], weights: LossWeights) -> dict[str, torch.Tensor]:
    """Return the terms that have a weight, multiplied by it."""
    return {n: getattr(weights, n) * term for n, term in terms.items() if n not in (*WATCHED, "total")}
