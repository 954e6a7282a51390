"""Random augmentation of training images, drawn for each image."""

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from models.errors import InputError

Augment = Callable[[Tensor, Generator], Tensor]


def create(settings: Mapping | None) -> Augment:
    """The augmentation of a recipe.

    Args:
        settings: ``{name: shift, pixels: 2}`` or ``{name: crop, area: [0.35, 1]}``; None leaves
            images as they are.

    Raises:
        InputError: for an unknown name, listing the known ones.
    """
    if settings is None:
        return lambda images, generator: images
    if settings["name"] == "shift":
        return lambda images, generator: shifted(images, settings["pixels"], generator)
    if settings["name"] == "crop":
        return lambda images, generator: cropped(images, tuple(settings["area"]), generator)
    raise InputError(f"train.augment.name={settings['name']!r} is unknown; known: shift, crop")


def shifted(images: Tensor, pixels: int, generator: Generator) -> Tensor:
    """Flip half of (B, C, H, W) images and move each by up to ``pixels``, filling with zeros."""
    count, device = len(images), images.device
    flip = torch.rand(count, generator=generator, device=device) < 0.5
    images = torch.where(flip[:, None, None, None], images.flip(-1), images)
    size = images.shape[-1]
    padded = F.pad(images, (pixels,) * 4)
    rows, columns = (
        torch.randint(0, 2 * pixels + 1, (count,), generator=generator, device=device)
        for _ in range(2)
    )
    rows = (rows[:, None] + torch.arange(size, device=device))[:, None, :, None]
    columns = (columns[:, None] + torch.arange(size, device=device))[:, None, None, :]
    sample = torch.arange(count, device=device)[:, None, None, None]
    channel = torch.arange(images.shape[1], device=device)[None, :, None, None]
    return padded[sample, channel, rows, columns]


def cropped(images: Tensor, area: tuple[float, float], generator: Generator) -> Tensor:
    """Flip half of the images and crop each at random, resized back (Szegedy et al. 2015).

    Args:
        images: (B, C, H, W) uint8.
        area: the smallest and largest share of an image that is kept; aspect ratios are 3:4 to 4:3.

    Returns:
        (B, C, H, W) uint8, interpolated bilinearly.
    """

    def uniform(low: float, high: float) -> Tensor:
        drawn = torch.rand(len(images), generator=generator, device=images.device)
        return low + (high - low) * drawn

    share, ratio = uniform(*area), uniform(-math.log(4 / 3), math.log(4 / 3)).exp()
    width, height = ((share * r).sqrt().clamp(max=1) for r in (ratio, 1 / ratio))
    flip = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    transform = torch.zeros(len(images), 2, 3, device=images.device)
    transform[:, 0, 0], transform[:, 1, 1] = width * flip, height
    transform[:, 0, 2], transform[:, 1, 2] = (
        uniform(-1, 1) * (1 - side) for side in (width, height)
    )
    grid = F.affine_grid(transform, list(images.shape), align_corners=False)
    views = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    return views.round().to(torch.uint8)
