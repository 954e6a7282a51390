"""The closed-form denoiser of Gaussian data N(0, STD^2), and its exact trajectories."""

import numpy as np
import torch
from torch import Tensor

from models import DenoiserSpec
from samplers import NoiseSchedule
from samplers.prediction import convert

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


class Denoiser:
    """The closed-form denoiser as a network trained on one schedule: ``(x, t, y)`` and a ``spec``.

    Its answer is exact for the noise level that ``t`` means to it, whatever x really is.
    """

    def __init__(self, schedule: str, prediction_type: str = "epsilon", **facts):
        self.spec = DenoiserSpec(
            latent_shape=(1, 2, 2),
            num_classes=10,
            null_label=10,
            prediction_type=prediction_type,
            learn_sigma=False,
            schedule=schedule,
            **facts,
        )
        self.schedule = NoiseSchedule.create(schedule)
        self.asked: list[float] = []

    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        self.asked.append(t[0].item())
        if self.spec.schedule == "rectified-flow":
            sigma = t[0].item() / 1000
            alpha = 1 - sigma
        else:
            t = t[:1].numpy() - self.spec.timestep_offset
            alpha, sigma, _ = (float(value[0]) for value in self.schedule.at(t))
        answer = epsilon(x, alpha, sigma)
        return convert(answer, x, alpha, sigma, "epsilon", self.spec.prediction_type)
