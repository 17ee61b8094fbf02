# SPDX-License-Identifier: Apache-2.0
"""Photometric augmentation of a whole batch on its device. Geometry is varied by the crops; a mirror image
would be a different object."""

from __future__ import annotations

from dataclasses import dataclass

import kornia.augmentation as K
import torch


@dataclass(frozen=True)
class AugmentConfig:
    """Strengths; 0 switches an effect off. Renders already have blur, noise, JPEG and colour effects.

    No hue or saturation: converting to HSV and back would take half as long as a small network's whole step.
    """

    brightness: float = 0.25
    contrast: float = 0.35
    grey: float = 0.2
    noise: float = 0.03
    cutout: float = 0.15


def make_augmentation(config: AugmentConfig, device: torch.device) -> K.AugmentationSequential:
    """Images (B, 3, H, W) float in [0, 1] -> the same shape, each image with its own draw."""
    brightness = K.RandomBrightness((1 - config.brightness, 1 + config.brightness), p=0.5)
    contrast = K.RandomContrast((1 - config.contrast, 1 + config.contrast), p=0.5)
    grey = K.RandomGrayscale(p=config.grey)
    noise = K.RandomGaussianNoise(std=config.noise, p=0.3)
    cutout = K.RandomErasing(scale=(0.01, 0.06), value=0.5, p=config.cutout)
    each = (brightness, contrast, grey, noise, cutout)
    for one in each:
        one.set_rng_device_and_dtype(device, torch.float32)  # noise for a large batch takes long on a CPU
    return K.AugmentationSequential(*each, data_keys=["input"]).to(device)


@torch.no_grad()
def augmented(
    images: torch.Tensor, augmentation: K.AugmentationSequential, seed: int, first: int = 0, count: int = 0
) -> torch.Tensor:
    """Return images (B, 3, H, W) float in [0, 1] in the same shape and range, each changed by its own random
    draw.

    The images are numbers ``first`` to ``first`` + B - 1 of the ``count`` that share a seed. An image's draw
    depends on its number alone, whichever process holds it.
    """
    shape = images.shape
    torch.manual_seed(seed)
    drawn = augmentation.forward_parameters(torch.Size((count or len(images), *shape[1:])))
    mine = slice(first, first + len(images))
    for item in drawn:
        assert isinstance(item.data, dict)  # a list is a nested sequence's
        item.data.update({name: values[mine] for name, values in item.data.items()})
        item.data["forward_input_shape"] = torch.tensor(shape)
    return augmentation(images, params=drawn).clamp(0, 1)
