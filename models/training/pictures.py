"""Photographs as text-to-image networks are trained on them: on a wider ground, or drawn."""

import torch
import torch.nn.functional as F
from torch import Tensor

# Pixels of black ground on each side. StableDiffusionPipeline makes sides of multiples of 8 only.
MARGIN = 2


def padded(images: Tensor) -> Tensor:
    """(N, C, H, W) uint8 -> (N, C, H + 2 MARGIN, W + 2 MARGIN), on black ground."""
    return F.pad(images, (MARGIN,) * 4)


def outlined(images: Tensor) -> Tensor:
    """(N, C, H, W) uint8, what a bright pen would draw: edges, from inside the bright parts.

    Twice the difference of an image and its erosion by 3x3 pixels, clamped to 255.
    """
    return torch.cat([_outlined(part) for part in images.split(5000)])


def _outlined(images: Tensor) -> Tensor:
    bright = images.float()
    eroded = -F.max_pool2d(-bright, 3, stride=1, padding=1)
    return (2 * (bright - eroded)).clamp(max=255).to(torch.uint8)
