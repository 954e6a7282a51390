"""DPM-Solver++ (Lu et al. 2022, arXiv 2211.01095): second-order multistep in data prediction."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from samplers.loss import split_output
from samplers.schedule import NoiseSchedule


@dataclass(frozen=True, eq=False)
class DPMSolverPP:
    """DPM-Solver++(2M).

    Attributes:
        schedule: the noise schedule of the denoisers.
        times: descending fractional timesteps, one more than there are steps; the last is where
            sampling stops. Step i calls ``denoise(x, i)`` at ``times[i]``.
        order: 1 (which is DDIM) or 2.
        lower_order_final: first order at the last step if there are fewer than 10 steps, as the
            reference implementation does (its documentation says 15).
    """

    schedule: NoiseSchedule
    times: list[float]
    order: int = 2
    lower_order_final: bool = True

    def __post_init__(self):
        if self.order not in (1, 2):
            raise ValueError(f"sampler.order={self.order} must be 1 or 2")

    @property
    def timesteps(self) -> list[float]:
        """The fractional timesteps at which the network is called, one per step."""
        return self.times[:-1]

    def __call__(
        self,
        denoise: Callable[[Tensor, int], Tensor],
        x: Tensor,
        noise: Callable[[int], Tensor] | None = None,
        callback: Callable[..., None] | None = None,
    ) -> Tensor:
        """Walk from noise to latents.

        Args:
            denoise: (x, step) -> (B, C, H, W) epsilon, variance logits behind it are ignored.
            x: (B, C, H, W) standard normal.
            noise: unused, the solver is deterministic.
            callback: called with ``step, t, x, x_0`` after every step.

        Returns:
            (B, C, H, W) latents at ``times[-1]``.
        """
        alpha, sigma, half_log_snr = self._tables()
        steps = len(self.times) - 1
        previous = None
        for step, t in enumerate(self.timesteps):
            epsilon, _ = split_output(denoise(x, step), x.shape[1])
            x_0 = (x - sigma[step] * epsilon) / alpha[step]
            h = half_log_snr[step + 1] - half_log_snr[step]
            # Algorithm 2 of the paper: extrapolate x_0 from this and the previous prediction.
            extrapolated = x_0
            if previous is not None and not self._first_order(step, steps):
                r = (half_log_snr[step] - half_log_snr[step - 1]) / h
                extrapolated = x_0 + (x_0 - previous) / (2 * r)
            x = sigma[step + 1] / sigma[step] * x - alpha[step + 1] * math.expm1(-h) * extrapolated
            previous = x_0
            if callback:
                callback(step=step, t=t, x=x, x_0=x_0)
        return x

    def _first_order(self, step: int, steps: int) -> bool:
        lowered = self.lower_order_final and steps < 10 and step == steps - 1
        return self.order == 1 or lowered

    def _tables(self) -> tuple[list[float], list[float], list[float]]:
        """alpha, sigma and half-log-SNR at ``times``: log(alpha) is interpolated linearly in t."""
        log_alpha = 0.5 * np.log(self.schedule.alphas_cumprod.numpy())
        log_alpha = np.interp(self.times, np.arange(len(log_alpha)), log_alpha)
        log_sigma = 0.5 * np.log(-np.expm1(2 * log_alpha))
        half_log_snr = log_alpha - log_sigma
        return np.exp(log_alpha).tolist(), np.exp(log_sigma).tolist(), half_log_snr.tolist()
