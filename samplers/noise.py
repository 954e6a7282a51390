"""Noise and labels of global sample indices.

Every draw comes from a counter-based generator (Philox) keyed by (seed, index), with a counter per
purpose. Sample ``index`` gets the same numbers in any batch, on any rank and on any device.
"""

import numpy as np
import torch
from torch import Tensor

from samplers import check

_LABEL, _INITIAL, _FIRST_STEP, _EMBEDDING, _SEED = 0, 1, 2, 2**32, 2**33


def random_labels(seed: int, indices: range | list[int], num_classes: int) -> Tensor:
    """(B,) int64 labels, uniform over the classes: the paper's label rule."""
    return torch.tensor(
        [int(_generator(seed, index, _LABEL).integers(num_classes)) for index in indices]
    )


def initial_noise(seed: int, indices: range | list[int], shape: tuple[int, ...]) -> Tensor:
    """(B, *shape) float32 standard normal: x_T of the samples ``indices``."""
    return _normal(seed, indices, shape, _INITIAL)


def step_noise(seed: int, indices: range | list[int], shape: tuple[int, ...], step: int) -> Tensor:
    """(B, *shape) float32 standard normal: what stochastic samplers add at ``step``."""
    return _normal(seed, indices, shape, _FIRST_STEP + step)


def random_embedding(seed: int, indices: range | list[int], width: int) -> Tensor:
    """(B, width) float32 uniform in [0, 1): what the paper's LDM has for "no class"."""
    draws = [
        _generator(seed, index, _EMBEDDING).random(width, dtype=np.float32) for index in indices
    ]
    return torch.from_numpy(np.stack(draws))


def generators(seed: int, indices: range | list[int]) -> list[torch.Generator]:
    """A torch generator on the CPU for each sample: for libraries that draw by themselves."""
    seeds = [int(_generator(seed, index, _SEED).integers(2**63)) for index in indices]
    return [torch.Generator().manual_seed(one) for one in seeds]


def check_seed(seed: int) -> int:
    """The seed, or InputError unless it is a whole number in [0, 2^64)."""
    return check.whole("seed", seed, 0, 2**64 - 1)


def check_index(index: int) -> int:
    """A global sample index, or InputError unless it is a whole number in [0, 2^64)."""
    return check.whole("index", index, 0, 2**64 - 1)


def _normal(seed, indices, shape, purpose) -> Tensor:
    draws = [
        _generator(seed, index, purpose).standard_normal(shape, dtype=np.float32)
        for index in indices
    ]
    return torch.from_numpy(np.stack(draws))


def _generator(seed: int, index: int, purpose: int) -> np.random.Generator:
    # The lowest counter words count the draws; the highest one tells purposes apart.
    # The dtype is explicit because numpy turns a list with an integer above 2^63 into floats.
    key = np.array([check_seed(seed), check_index(index)], dtype=np.uint64)
    philox = np.random.Philox(key=key, counter=[0, 0, 0, purpose])
    return np.random.Generator(philox)
