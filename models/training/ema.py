"""Averages of weights over a training."""

import numpy as np
import torch
from torch import nn


def power_decay(images: int, batch_size: int, width: float) -> float:
    """The decay of a step that keeps the average's width a fixed share of the training so far.

    The power-function average of Karras et al. 2024 (EDM2, sec. 3.1): it forgets the beginning by
    itself and need not know when the training ends.

    Args:
        images: seen after this step.
        batch_size: of this step.
        width: standard deviation of the average's profile in time, relative to the training so
            far; in (0, 0.28).
    """
    return max(0.0, 1 - batch_size / images) ** (exponent(width) + 1)


def exponent(width: float) -> float:
    """gamma of the profile t^gamma whose relative standard deviation is ``width``.

    The largest root of (gamma + 2)^2 (gamma + 3) = (gamma + 1) / width^2.
    """
    inverse = width**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


@torch.no_grad()
def update(average: nn.Module, network: nn.Module, decay: float) -> None:
    """average <- decay * average + (1 - decay) * network; integer buffers are copied."""
    averages, values = average.state_dict(), network.state_dict()
    floating = [name for name in values if values[name].is_floating_point()]
    torch._foreach_lerp_(
        [averages[name] for name in floating], [values[name] for name in floating], 1 - decay
    )
    for name in values.keys() - set(floating):
        averages[name].copy_(values[name])
