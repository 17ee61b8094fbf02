"""Photometric augmentation of a whole batch on its device. No geometry: crops jitter that, and a mirror would
be wrong."""

from __future__ import annotations

from dataclasses import dataclass

import torch

GREY = (0.299, 0.587, 0.114)  # of R, G, B
PROBABILITY, NOISE_PROBABILITY = 0.5, 0.3  # of brightness and of contrast; of noise
ERASED_SHARE, ERASED_ASPECT, ERASED = (
    (0.01, 0.06),
    (0.3, 3.3),
    0.5,
)  # of the picture; height / width; its grey


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


@dataclass(frozen=True)
class Draw:
    """What happens to each of B images, drawn on the CPU, so that no step waits to learn what was drawn:
    summands and factors (B,), grey (B,) bool, seeds of the noise or None, boxes (B, 4) left, top, width,
    height in shares of the side, of width 0 for none."""

    brightness: torch.Tensor
    contrast: torch.Tensor
    grey: torch.Tensor
    noise: list[int | None]
    boxes: torch.Tensor


def draw(config: AugmentConfig, count: int, seed: int) -> Draw:
    """Draw for ``count`` images; seed decides all of it."""
    random = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, generator=random)

    def happens(probability: float) -> torch.Tensor:
        return torch.rand(count, generator=random) < probability

    brightness = uniform(-config.brightness, config.brightness) * happens(PROBABILITY)
    contrast = 1 + uniform(-config.contrast, config.contrast) * happens(PROBABILITY)
    grey, noisy = happens(config.grey), happens(NOISE_PROBABILITY if config.noise else 0.0)
    seeds = torch.randint(2**62, (count,), generator=random)
    share, aspect = uniform(*ERASED_SHARE), uniform(*(torch.tensor(ERASED_ASPECT).log().tolist())).exp()
    size = (
        torch.stack([(share / aspect).sqrt(), (share * aspect).sqrt()], 1) * happens(config.cutout)[:, None]
    )
    corner = torch.rand(count, 2, generator=random) * (1 - size)
    noise = [int(s) if n else None for s, n in zip(seeds, noisy)]
    return Draw(brightness, contrast, grey, noise, torch.cat([corner, size], 1))


def augmented(
    images: torch.Tensor, config: AugmentConfig, seed: int, first: int = 0, count: int | None = None
) -> torch.Tensor:
    """Images (B, 3, H, W) float in [0, 1] -> the same shape and range, each with its own draw.

    They are those from ``first`` on of ``count`` (B) that share a seed: an image's draw is the same whoever
    has it.
    """
    drawn = draw(config, count or len(images), seed)
    mine = slice(first, first + len(images))

    def each(values: torch.Tensor) -> torch.Tensor:
        return values[mine].to(images.device, non_blocking=True).view(-1, 1, 1, 1)

    images = (images + each(drawn.brightness)).clamp(0, 1)
    images = (images * each(drawn.contrast)).clamp(0, 1)
    luma = (images * images.new_tensor(GREY).view(1, 3, 1, 1)).sum(1, keepdim=True)
    images = torch.where(each(drawn.grey), luma, images)
    for image, noise_seed in zip(images, drawn.noise[mine]):
        if noise_seed is not None:
            random = torch.Generator(images.device).manual_seed(noise_seed)
            noise = torch.randn(image.shape, generator=random, device=images.device)
            image.add_(noise, alpha=config.noise)
    return torch.where(_inside(drawn.boxes[mine].to(images.device), *images.shape[2:]), ERASED, images).clamp(
        0, 1
    )


def _inside(boxes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Which pixels (B, 1, H, W) lie in the boxes (B, 4), shares of the sides."""

    def along(start: torch.Tensor, length: torch.Tensor, pixels: int) -> torch.Tensor:
        place = (torch.arange(pixels, device=boxes.device) + 0.5) / pixels
        return (place >= start[:, None]) & (place < (start + length)[:, None])

    rows, columns = along(boxes[:, 1], boxes[:, 3], height), along(boxes[:, 0], boxes[:, 2], width)
    return (rows[:, :, None] & columns[:, None, :])[:, None]
