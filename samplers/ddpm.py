"""DDPM (Ho et al. 2020, arXiv 2006.11239), with the learned range of Nichol & Dhariwal 2021 (arXiv
2102.09672). Equation numbers are Ho et al.'s where no other paper is named."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from models.errors import InputError
from samplers.loss import learned_range, split_output
from samplers.sampler import Callback, Denoise, Noise
from samplers.schedule import NoiseSchedule
from samplers.spacing import check_timesteps, visits

VARIANCES = ("learned-range", "fixed-small", "fixed-large")
FALLBACKS = ("refuse", "fixed-small", "fixed-large")


@dataclass(frozen=True, eq=False)
class DDPM:
    """Ancestral sampling of the (respaced) reverse process (algorithm 2).

    Attributes:
        schedule: the noise schedule of the denoisers.
        timesteps: descending integers.
        variance: ``learned-range`` reads the denoiser's variance logits; ``fixed-small`` is the
            posterior variance (eq. 7), ``fixed-large`` is beta; section 3.2 has both.
        fallback: which fixed variance ``learned-range`` takes at a step whose denoiser predicts no
            variance logits; ``refuse`` raises an error there.
    """

    default_spacing: ClassVar[str] = "trailing-inclusive"

    schedule: NoiseSchedule
    timesteps: list[int]
    variance: str = "learned-range"
    fallback: str = "refuse"

    def __post_init__(self):
        check_timesteps(self.timesteps, self.schedule, int)
        if self.variance not in VARIANCES:
            raise InputError(
                f"sampler.variance={self.variance!r} is unknown; known: {', '.join(VARIANCES)}"
            )
        if self.fallback not in FALLBACKS:
            raise InputError(
                f"sampler.fallback={self.fallback!r} is unknown; known: {', '.join(FALLBACKS)}"
            )

    @staticmethod
    def place(spacing: str, steps: int, schedule: NoiseSchedule, **_) -> list[int]:
        """The ``steps`` timesteps of a spacing (see ``spacing.visits``)."""
        return visits(spacing, steps, schedule)

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        noise: Noise,
        callback: Callback | None = None,
        switches: Collection[int] = (),
    ) -> Tensor:
        """Walk as ``samplers.Sampler`` says. Calls ``noise`` at every step but the last.

        Raises:
            InputError: if ``variance`` is ``learned-range``, ``fallback`` is ``refuse``, and a
                denoiser predicts no variance logits at a step that adds noise.
        """
        process = self.schedule.respaced(self.timesteps)
        alphas = process.alphas_cumprod.tolist()
        coef1, coef2 = process.posterior_mean_coef1.tolist(), process.posterior_mean_coef2.tolist()
        log_betas = process.betas.log()
        log_small = process.posterior_log_variance_clipped
        learned = self.variance == "learned-range"
        kind = self.fallback if learned else self.variance
        fixed = (log_betas if kind == "fixed-large" else log_small).tolist()
        log_betas, log_small = log_betas.tolist(), log_small.tolist()

        last = len(self.timesteps) - 1
        for step, t in enumerate(self.timesteps):
            epsilon, logits = split_output(denoise(x, step), x.shape[1])
            # Eq. 15: x_0 from epsilon.
            x_0 = (x - (1 - alphas[step]) ** 0.5 * epsilon) / alphas[step] ** 0.5
            # Eq. 7: the posterior mean; with this x_0 it is eq. 11.
            mean = coef1[step] * x_0 + coef2[step] * x
            if step == last:
                x = mean
            elif learned and logits is not None:
                # Nichol & Dhariwal 2021, eq. 15.
                log_variance = learned_range(logits, log_betas[step], log_small[step])
                x = mean + (0.5 * log_variance).exp() * noise(step)
            elif kind == "refuse":
                raise InputError(
                    "sampler.variance=learned-range needs denoisers with learned sigma; use "
                    "sampler.fallback or sampler.variance with fixed-small or fixed-large"
                )
            else:
                x = mean + math.exp(0.5 * fixed[step]) * noise(step)
            if callback:
                callback(step=step, t=t, x=x, x_0=x_0)
        return x
