"""Noise schedules: from betas to everything a sampler looks up."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from models.errors import InputError


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """A discrete noise schedule in variance-preserving coordinates, float64 throughout.

    q(x_t | x_0) = N(sqrt(alphas_cumprod[t]) x_0, (1 - alphas_cumprod[t]) I), t = 0..T-1
    (Ho et al. 2020, eq. 4). Scaling the state brings the process that networks were trained on into
    this form, in which samplers walk. Tables are float64 and are cast only where they meet a
    float32 state, as in OpenAI's guided-diffusion and in DiT's diffusion module.

    Attributes:
        name: for messages and for comparing the schedules of two denoisers; with the number of
            timesteps if that is not the published 1000.
        betas: (T,) float64, each in (0, 1).
        norm: (T,) float64, sqrt(alpha^2 + sigma^2) of the states that its networks are shown, if
            that is not 1 throughout.
    """

    name: str
    betas: Tensor
    norm: Tensor | None = None

    @classmethod
    def create(cls, name: str, num_timesteps: int = 1000) -> "NoiseSchedule":
        """The published schedule of that name.

        ``ddpm-linear`` (DiT), ``ldm``, ``stable-diffusion`` (U-ViT too), or ``rectified-flow``:
        x_t = (1 - s) x_0 + s epsilon with s = (t + 1/2) / T, so that a network that counts T s has
        a ``timestep_offset`` of 1/2.

        Raises:
            InputError: for an unknown name, listing the known ones.
        """
        own = name if num_timesteps == 1000 else f"{name}-{num_timesteps}"
        if name == "rectified-flow":
            return cls._rectified_flow(own, num_timesteps)
        if name not in _ENDPOINTS:
            known = ", ".join([*_ENDPOINTS, "rectified-flow"])
            raise InputError(f"unknown noise schedule {name!r}; known: {known}")
        first, last, space = _ENDPOINTS[name]
        # numpy's linspace, as in DiT's diffusion module; torch's rounds differently.
        if space == "beta":
            scale = 1000 / num_timesteps
            betas = np.linspace(scale * first, scale * last, num_timesteps)
        else:
            betas = np.linspace(first**0.5, last**0.5, num_timesteps) ** 2
        return cls(own, torch.from_numpy(betas))

    @classmethod
    def _rectified_flow(cls, name: str, num_timesteps: int) -> "NoiseSchedule":
        sigma = (np.arange(num_timesteps) + 0.5) / num_timesteps
        norm = np.hypot(1 - sigma, sigma)
        alphas_cumprod = ((1 - sigma) / norm) ** 2
        betas = 1 - alphas_cumprod / np.concatenate([[1.0], alphas_cumprod[:-1]])
        return cls(name, torch.from_numpy(betas), torch.from_numpy(norm))

    @property
    def num_timesteps(self) -> int:
        return len(self.betas)

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """(T,) float64: signal power left at timestep t."""
        return torch.from_numpy(np.cumprod(1.0 - self.betas.numpy()))

    @cached_property
    def half_log_snr(self) -> Tensor:
        """(T,) float64: lambda_t = log(alpha_t / sigma_t) = logit(alphas_cumprod) / 2."""
        return torch.logit(self.alphas_cumprod) / 2

    @cached_property
    def log_alpha(self) -> np.ndarray:
        """(T,) float64: log of the signal's scale, log(alphas_cumprod) / 2."""
        return 0.5 * np.log(self.alphas_cumprod.numpy())

    def at(self, times: Sequence[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """alpha, sigma and half-log-SNR at fractional timesteps, float64 (len(times),) each.

        log(alpha) is interpolated linearly in t (Lu et al. 2022, DPM-Solver, app. D.4).
        """
        log_alpha = np.interp(times, np.arange(self.num_timesteps), self.log_alpha)
        log_sigma = 0.5 * np.log(-np.expm1(2 * log_alpha))
        return np.exp(log_alpha), np.exp(log_sigma), log_alpha - log_sigma

    def norm_at(self, times: Sequence[float]) -> np.ndarray:
        """``norm`` at fractional timesteps, float64 (len(times),)."""
        if self.norm is None:
            return np.ones(len(times))
        return np.interp(times, np.arange(self.num_timesteps), self.norm.numpy())

    def log_snr(self, times: Sequence[float]) -> list[float]:
        """log(alpha^2 / sigma^2) at fractional timesteps."""
        return (2 * self.at(times)[2]).tolist()

    def time_at(self, half_log_snr: np.ndarray) -> np.ndarray:
        """The fractional timesteps with these half-log-SNRs, the inverse of ``at``; float64.

        Values that the schedule does not reach become its nearest end, 0 or T - 1.
        """
        log_alpha = -0.5 * np.logaddexp(0, -2 * np.asarray(half_log_snr))
        ascending = self.log_alpha[::-1]
        return np.interp(log_alpha, ascending, np.arange(self.num_timesteps)[::-1])

    def respaced(self, timesteps: list[int], last: float = 1.0) -> "Respaced":
        """The shorter process that visits only ``timesteps`` (Nichol & Dhariwal 2021, sec. 4).

        Args:
            timesteps: distinct integers in [0, T), descending: the order of sampling.
            last: ``alphas_cumprod`` of the state that the last step arrives at; 1 is clean.
        """
        kept = torch.tensor(timesteps)
        alphas_cumprod = self.alphas_cumprod[kept]
        previous = torch.cat([alphas_cumprod[1:], torch.tensor([last], dtype=torch.float64)])
        return Respaced(alphas_cumprod, previous)

    def add_noise(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Draw from q(x_t | x_0): (B, ...) clean and noise, (B,) int64 timesteps -> (B, ...)."""
        shape = (-1,) + (1,) * (x_0.ndim - 1)
        alpha, sigma = (scale.to(x_0.dtype).view(shape) for scale in self.scales(t))
        return alpha * x_0 + sigma * noise

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma at (B,) int64 timesteps, (B,) each and ``finest``, on the device of t."""
        alpha, sigma = self._scales_on(t.device)[:, t]
        return alpha, sigma

    @lru_cache(maxsize=8)  # noqa: B019 (schedules are few and live as long as the process)
    def _scales_on(self, device: torch.device) -> Tensor:
        """(2, T) tables, copied once: a copy for every batch would make a GPU wait."""
        scales = torch.stack([self.alphas_cumprod, 1 - self.alphas_cumprod]).sqrt()
        return scales.to(device, finest(device))


def finest(device: torch.device) -> torch.dtype:
    """float64, or float32 on Apple GPUs, which have no other."""
    return torch.float32 if device.type == "mps" else torch.float64


@dataclass(frozen=True, eq=False)
class Respaced:
    """Tables of a process in sampling order: entry i belongs to step i, float64 (steps,).

    Attributes:
        alphas_cumprod: at the timestep of step i.
        alphas_cumprod_prev: at the next timestep visited; after the last step usually 1.
    """

    alphas_cumprod: Tensor
    alphas_cumprod_prev: Tensor

    @cached_property
    def betas(self) -> Tensor:
        return 1 - self.alphas_cumprod / self.alphas_cumprod_prev

    @cached_property
    def posterior_variance(self) -> Tensor:
        """Variance of q(x_prev | x_t, x_0) (Ho et al. 2020, eq. 7)."""
        return self.betas * (1 - self.alphas_cumprod_prev) / (1 - self.alphas_cumprod)

    @cached_property
    def posterior_log_variance_clipped(self) -> Tensor:
        """log(posterior_variance) with the last step's zero replaced by the step before it."""
        variance = self.posterior_variance.clone()
        if len(variance) > 1:
            variance[-1] = variance[-2]
        return variance.log()

    @cached_property
    def posterior_mean_coef1(self) -> Tensor:
        """Weight of x_0 in the posterior mean (Ho et al. 2020, eq. 7)."""
        return self.betas * self.alphas_cumprod_prev.sqrt() / (1 - self.alphas_cumprod)

    @cached_property
    def posterior_mean_coef2(self) -> Tensor:
        """Weight of x_t in the posterior mean (Ho et al. 2020, eq. 7)."""
        alphas = 1 - self.betas
        return (1 - self.alphas_cumprod_prev) * alphas.sqrt() / (1 - self.alphas_cumprod)


# name -> (first beta, last beta, what is linear in the timestep)
_ENDPOINTS = {
    "ddpm-linear": (1e-4, 0.02, "beta"),
    "ldm": (0.0015, 0.0195, "sqrt(beta)"),
    "stable-diffusion": (0.00085, 0.012, "sqrt(beta)"),
}
