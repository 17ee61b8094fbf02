"""Photometric augmentation of a whole batch on its device. No geometry: crops jitter that, and a mirror would
be wrong."""

from __future__ import annotations

from dataclasses import dataclass

import kornia.augmentation as K
import torch


@dataclass(frozen=True)
class AugmentConfig:
    """Strengths; 0 switches one off. Renders carry blur, noise, JPEG and colour of their own already.

    No hue or saturation: converting to HSV and back would take half as long as a small network's whole step.
    """

    brightness: float = 0.25
    contrast: float = 0.35
    grey: float = 0.2
    noise: float = 0.03
    cutout: float = 0.15


def make_augmentation(config: AugmentConfig) -> torch.nn.Module:
    """Images (B, 3, H, W) float in [0, 1] -> the same shape and range, each image with its own draw."""
    brightness = K.RandomBrightness((1 - config.brightness, 1 + config.brightness), p=0.5)
    contrast = K.RandomContrast((1 - config.contrast, 1 + config.contrast), p=0.5)
    grey = K.RandomGrayscale(p=config.grey)
    noise = K.RandomGaussianNoise(std=config.noise, p=0.3)
    cutout = K.RandomErasing(scale=(0.01, 0.06), value=0.5, p=config.cutout)
    return K.AugmentationSequential(brightness, contrast, grey, noise, cutout, data_keys=["input"])
