"""The closed-form denoiser of Gaussian data N(0, STD^2), and its exact trajectories."""

import numpy as np
import torch
from torch import Tensor

from samplers import NoiseSchedule

STD = 0.5


def epsilon(x: Tensor, alpha: float, sigma: float) -> Tensor:
    """E[epsilon | x] for x = alpha x_0 + sigma epsilon."""
    return sigma * x / (alpha**2 * STD**2 + sigma**2)


def denoise(schedule: NoiseSchedule, timesteps: list[float]):
    """``denoise(x, step)`` of a sampler: epsilon, and variance logits of zero."""
    alphas, sigmas, _ = schedule.at(timesteps)

    def answer(x: Tensor, step: int) -> Tensor:
        return torch.cat([epsilon(x, alphas[step], sigmas[step]), torch.zeros_like(x)], dim=1)

    return answer


def spread(schedule: NoiseSchedule, t: float) -> float:
    """Standard deviation of the state at timestep t; the probability flow keeps x / spread."""
    alpha, sigma, _ = (float(value[0]) for value in schedule.at([t]))
    return float(np.hypot(alpha * STD, sigma))


def start(dtype: torch.dtype = torch.float64) -> Tensor:
    """(4, 1, 2, 2) standard normal."""
    return torch.randn(4, 1, 2, 2, dtype=dtype, generator=torch.Generator().manual_seed(0))
