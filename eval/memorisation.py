"""Whether samples copy the training images: how near the nearest one is, beside held-out images.

A network that copies is nearer to its training images than photographs are that it has not seen.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import mannwhitneyu, norm
from torch import Tensor

from models.errors import InputError


@dataclass(frozen=True, eq=False)
class InMemory:
    """(N, C, H, W) uint8 images, read as ``eval.images.Images`` are."""

    images: Tensor
    run = None

    @property
    def count(self) -> int:
        return len(self.images)

    def read(self, start: int, stop: int) -> Iterator[np.ndarray]:
        yield self.images[start:stop].permute(0, 2, 3, 1).numpy()


def nearest(points: Tensor, base: Tensor, rows: int = 1000) -> tuple[Tensor, Tensor]:
    """Euclidean distance to the nearest of ``base``, and its index, of every point.

    Args:
        points, base: (N, D) and (M, D), of any type; their device computes.
        rows: rows and columns of a tile; its size bounds the memory and changes nothing else.

    Returns:
        (N,) float32 distances and (N,) int64 indices; the first of several that are as near.

    Raises:
        InputError: for unlike dimensions, or an empty base.
    """
    if not len(base) or points.shape[1:] != base.shape[1:]:
        raise InputError(f"no nearest ones of {tuple(points.shape)} in {tuple(base.shape)}")
    found = []
    for some in points.split(rows):
        some = some.float()
        tiles = (_nearest(some, tile.float()) for tile in base.split(rows))
        distances, indices = zip(*tiles, strict=True)
        tile = torch.stack(distances).argmin(0)
        index = torch.stack(indices).gather(0, tile[None])[0]
        # The norm of the difference: a product of matrices loses the digits of near ones.
        index += tile * rows
        exact = (some - base[index].float()).norm(dim=1)
        found.append((exact, index))
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


def _nearest(points: Tensor, tile: Tensor) -> tuple[Tensor, Tensor]:
    return torch.cdist(points, tile, compute_mode="use_mm_for_euclid_dist").min(1)


def copying_score(sample: Tensor, held_out: Tensor) -> float:
    """C_T of Meehan et al. 2020 (section 3.1) over one cell: below 0, samples are too near.

    Their distances to the nearest training image are compared with those of held-out images by the
    test of Mann and Whitney, as a standard normal deviate: -3 is a copying network, 0 is as near as
    held-out images, above 3 it is farther from the training images than they are.

    Args:
        sample, held_out: (N,) and (M,) distances to the nearest training image.
    """
    both = sample.double().numpy(), held_out.double().numpy()
    less, more = (mannwhitneyu(*both, alternative=side).pvalue for side in ("less", "greater"))
    # Of the smaller tail, which alone has digits.
    return float(norm.ppf(less) if less < more else norm.isf(more))


def share_nearer(sample: Tensor, held_out: Tensor, level: float = 0.01) -> float:
    """Share of samples nearer to a training image than all but ``level`` of the held-out images.

    It is about ``level`` for images of the same distribution, and more if some are copies, however
    far the others are.
    """
    return (sample < torch.quantile(held_out, level)).float().mean().item()


def share_closer_to_training(points: Tensor, training: Tensor, held_out: Tensor) -> float:
    """Share of points whose nearest image is a training image, of as many of both kinds.

    It is about a half unless points are copies, or the two kinds differ; ``share_of_held_out`` says
    whether they do. Unlike a distance it does not depend on how typical or smooth the points are,
    which brings them nearer to images of either kind.

    Args:
        points, training, held_out: (N, D), (M, D) and (M, D).

    Raises:
        InputError: for unlike numbers of images: more of a kind are nearer by chance.
    """
    if len(training) != len(held_out):
        raise InputError(f"{len(training)} training images beside {len(held_out)} held-out ones")
    return (nearest(points, training)[0] < nearest(points, held_out)[0]).float().mean().item()


def share_of_held_out(training: Tensor, held_out: Tensor) -> float:
    """What ``share_closer_to_training`` is of held-out images, which are no copies.

    Either half of them is compared with the other, and with half of the training images. It is a
    half if there is one distribution of both, which a photographer or a split may not keep.

    Args:
        training, held_out: (M, V, D) each, V versions of every image: itself and its mirror image.
    """
    shares = []
    for some, others in ((0, 1), (1, 0)):
        bases = [images[others::2].flatten(0, 1) for images in (training, held_out)]
        shares.append(share_closer_to_training(held_out[some::2, 0], *bases))
    return sum(shares) / 2
