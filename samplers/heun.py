"""Heun's second-order method as in EDM (Karras et al. 2022, arXiv 2206.00364, algorithm 1)."""

import itertools
from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from samplers.loss import split_output
from samplers.sampler import Callback, Denoise, Noise
from samplers.schedule import NoiseSchedule
from samplers.spacing import check_steps, check_timesteps, equal_parts, grid


@dataclass(frozen=True, eq=False)
class Heun:
    """Second-order solver of dz / ds = epsilon, with z = x / alpha and s = sigma / alpha.

    Every interval costs two network evaluations: one for Euler's step, one for its correction. The
    last interval, to s = 0, is not corrected. So N times need 2 N - 1 evaluations; each of them is
    a step of this sampler.

    Attributes:
        schedule: the noise schedule of the denoisers.
        times: N descending fractional timesteps.
    """

    default_spacing: ClassVar[str] = "karras"

    schedule: NoiseSchedule
    times: list[float]

    def __post_init__(self):
        check_timesteps(self.times, self.schedule, float)

    @staticmethod
    def place(spacing: str, steps: int, schedule: NoiseSchedule, **_) -> list[float]:
        """The ``steps`` times of a spacing (see ``spacing.grid``)."""
        check_steps(steps, 2, schedule.num_timesteps)
        return grid(spacing, equal_parts(steps - 1), schedule)

    @property
    def timesteps(self) -> list[float]:
        """The fractional timesteps at which the network is called, one per step."""
        return [t for pair in itertools.pairwise(self.times) for t in pair] + self.times[-1:]

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        noise: Noise | None = None,
        callback: Callback | None = None,
        switches: Collection[int] = (),
    ) -> Tensor:
        """Walk as ``samplers.Sampler`` says. Needs no noise; ignores variance logits.

        After an Euler step, the callback's x is the state at which the correction is evaluated.
        """
        alpha, sigma, _ = (table.tolist() for table in self.schedule.at(self.times))
        alpha, sigma = [*alpha, 1.0], [*sigma, 0.0]
        s = [noise_level / signal for noise_level, signal in zip(sigma, alpha, strict=True)]

        def predict(x: Tensor, step: int, i: int) -> tuple[Tensor, Tensor]:
            """Epsilon and x_0 of a state at ``times[i]``."""
            epsilon, _ = split_output(denoise(x, step), x.shape[1])
            return epsilon, (x - sigma[i] * epsilon) / alpha[i]

        for i, t in enumerate(self.times):
            slope, x_0 = predict(x, 2 * i, i)
            z, h = x / alpha[i], s[i + 1] - s[i]
            x = alpha[i + 1] * (z + h * slope)
            if callback:
                callback(step=2 * i, t=t, x=x, x_0=x_0)
            if i + 1 < len(self.times):  # the last interval, to clean latents, has no correction
                slope_next, x_0 = predict(x, 2 * i + 1, i + 1)
                x = alpha[i + 1] * (z + h * ((slope + slope_next) / 2))
                if callback:
                    callback(step=2 * i + 1, t=self.times[i + 1], x=x, x_0=x_0)
        return x
