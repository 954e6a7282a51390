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

    Every interval costs two network evaluations, an Euler step and its correction, but the last
    one, to s = 0, costs one: N times are 2 N - 1 evaluations, which are this sampler's steps.

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
        for step, t in enumerate(self.timesteps):
            interval, corrects = divmod(step, 2)
            here = interval + corrects
            epsilon, _ = split_output(denoise(x, step), x.shape[1])
            x_0 = (x - sigma[here] * epsilon) / alpha[here]
            if not corrects:
                z, slope = x / alpha[here], epsilon
            else:
                slope = (slope + epsilon) / 2
            s, s_next = (sigma[i] / alpha[i] for i in (interval, interval + 1))
            x = alpha[interval + 1] * (z + (s_next - s) * slope)
            if callback:
                callback(step=step, t=t, x=x, x_0=x_0)
        return x
