"""Improved precision and recall (Kynkaanniemi et al. 2019) in bounded memory.

Each distance is computed once: within a set D is symmetric, so a tile of it serves its rows and its
columns, and a tile between the sets serves precision and recall.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from models.errors import InputError

# (B, D), (C, D) -> distances (B, C) from the first's rows to the second's, and (C, B) back.
Distances = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

DISTANCES = ("float32", "float16")
ADM_BLOCK = 10_000  # rows and columns that ADM's evaluator computes together
_HALF_MAX = torch.finfo(torch.float16).max


def precision_recall(
    sample: Tensor,
    reference: Tensor,
    k: int = 3,
    distances: str = "float32",
    rows: int = 1000,
) -> tuple[float, float]:
    """Precision (samples inside reference balls) and recall (references inside sample balls).

    Args:
        sample, reference: (N, D) and (M, D) features; their device computes.
        k: neighbours; the distance of the k-th one is the radius of a point's ball.
        distances: ``float32``, Euclidean distances as torch-fidelity computes them; ``float16``,
            squared ones with each operation rounded to half precision, as ADM's evaluator does.
        rows: rows and columns of a tile; its size bounds the memory and changes nothing else.

    Returns:
        both in [0, 1].

    Raises:
        InputError: if a set has no k neighbours, for sets of unlike dimensions, or unknown
            ``distances``.
    """
    if distances not in DISTANCES:
        raise InputError(f"distances={distances} is unknown; known: {', '.join(DISTANCES)}")
    if min(len(sample), len(reference)) <= k:
        raise InputError(f"k={k} neighbours need more than {k} samples and references")
    if sample.shape[1] != reference.shape[1]:
        raise InputError(
            f"samples have {sample.shape[1]} features, the reference has {reference.shape[1]}"
        )
    sample, reference = sample.float(), reference.float()
    sample_radii = _radii(sample, k, distances, rows)
    reference_radii = _radii(reference, k, distances, rows)
    precise = torch.zeros(len(sample), dtype=torch.bool, device=sample.device)
    recalled = torch.zeros(len(reference), dtype=torch.bool, device=sample.device)
    for there, here, tile, _ in _tiles(reference, sample, distances, rows):
        precise[here] |= (tile <= reference_radii[there, None]).any(0)
        recalled[there] |= (tile <= sample_radii[here]).any(1)
    return precise.sum().item() / len(sample), recalled.sum().item() / len(reference)


def _radii(points: Tensor, k: int, distances: str, rows: int) -> Tensor:
    """(N,) distances to the k-th neighbour, a point itself being the 0-th."""
    nearest = points.new_full((len(points), k + 1), torch.inf)
    for there, here, tile, back in _tiles(points, points, distances, rows, symmetric=True):
        nearest[there] = _smallest(nearest[there], tile)
        if there != here:
            nearest[here] = _smallest(nearest[here], back)
    return nearest[:, k]


def _smallest(known: Tensor, tile: Tensor) -> Tensor:
    """The smallest of each row of both, as many as are known, ascending."""
    count = known.shape[1]
    if tile.shape[1] > count:
        tile = tile.topk(count, largest=False, sorted=False).values
    return torch.cat([known, tile], 1).sort(1).values[:, :count]


def _tiles(
    u: Tensor, v: Tensor, distances: str, rows: int, symmetric: bool = False
) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    """Tiles of the distances of (N, D) and (M, D) points, with the slices that they belong to.

    Args:
        symmetric: the points are the same; only tiles on and above the diagonal are made.
    """
    # cdist takes the exact way for few points, by the size of the sets and not of a tile.
    few = max(len(u), len(v)) <= 25
    for block in _slices(0, len(u), ADM_BLOCK):
        for other in _slices(block.start if symmetric else 0, len(v), ADM_BLOCK):
            if distances == "float32":
                measure = _exact if few else _euclidean
            else:
                measure = _half if _is_finite(u[block], v[other], rows) else _squared
            for there in _slices(block.start, block.stop, rows):
                first = there.start if symmetric and block == other else other.start
                for here in _slices(first, other.stop, rows):
                    yield there, here, *measure(u[there], v[here])


def _slices(start: int, stop: int, size: int) -> Iterator[slice]:
    for begin in range(start, stop, size):
        yield slice(begin, min(begin + size, stop))


def _euclidean(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    distance = torch.cdist(u, v, compute_mode="use_mm_for_euclid_dist")
    return distance, distance.T


def _exact(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    distance = torch.cdist(u, v, compute_mode="donot_use_mm_for_euclid_dist")
    return distance, distance.T


def _squared(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances |u|^2 - 2 u v + |v|^2."""
    norm_u, norm_v = u.square().sum(1), v.square().sum(1)
    product = 2 * u @ v.T
    there = (norm_u[:, None] - product + norm_v).clamp_(min=0)
    back = (norm_v[:, None] - product.T + norm_u).clamp_(min=0)
    return there, back


def _half(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """``_squared`` in float16: operands, squares, norms, products and sums are rounded to it.

    Sums over the features are accumulated in float32, as hardware with half precision does. The
    order of the last two sums matters in this precision, so both ways are computed.
    """
    u, v = _round(u), _round(v)
    norm_u, norm_v = (_round(_round(x.square()).sum(1)) for x in (u, v))
    product = _round(_round(u @ v.T).mul_(2))
    there = _round(_round(norm_u[:, None] - product) + norm_v).clamp_(min=0)
    back = _round(_round(norm_v[:, None] - product.T) + norm_u).clamp_(min=0)
    return there, back


def _round(x: Tensor) -> Tensor:
    return x.half().float()


def _is_finite(u: Tensor, v: Tensor, rows: int) -> bool:
    """Whether ``_half`` gives finite distances; ADM's evaluator computes the block again if not."""
    largest = sum(max(x.square().sum(1).max().item() for x in part.split(rows)) ** 0.5
                  for part in (u, v))  # fmt: skip
    # (|u| + |v|)^2 bounds all distances; the margin is for their rounding.
    if 1.01 * largest**2 < _HALF_MAX:
        return True
    return all(
        tile.isfinite().all() for a in u.split(rows) for b in v.split(rows) for tile in _half(a, b)
    )
