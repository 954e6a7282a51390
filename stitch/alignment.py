"""One state, seen by denoisers of other noise schedules and prediction types.

A sampler follows x = alpha x_0 + sigma epsilon on its own schedule, alpha^2 + sigma^2 = 1, and
needs epsilon. A denoiser that was trained on another schedule gets the same state, scaled to its
own schedule, at its own timestep with the same log-SNR: fractional if it takes fractional
timesteps, else the nearest. If its schedule has no such log-SNR (cleaner or noisier than it was
trained for), it is called at the end of its schedule. Its prediction is converted to x_0, which
means the same on every schedule, and x_0 to the sampler's epsilon.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from samplers.loss import split_output
from samplers.prediction import from_x_0, to_x_0
from samplers.schedule import NoiseSchedule


@dataclass(frozen=True)
class View:
    """How one denoiser sees the state of one step.

    Attributes:
        t: the timestep it is called with, as the denoiser counts timesteps.
        scale: what the state is multiplied by; 1 between variance-preserving schedules.
        own: alpha and sigma of the scaled state, by the denoiser's schedule.
        sampler: alpha and sigma of the state.
        prediction_type: what it predicts; see ``samplers.prediction``.
    """

    t: float
    scale: float
    own: tuple[float, float]
    sampler: tuple[float, float]
    prediction_type: str

    def state(self, x: Tensor) -> Tensor:
        """(B, C, H, W) state of the sampler -> the denoiser's input."""
        return x if self.scale == 1 else self.scale * x

    def epsilon(self, output: Tensor, x: Tensor) -> Tensor:
        """(B, C or 2C, H, W) output at the sampler's state ``x`` -> epsilon; logits stay."""
        if self.prediction_type == "epsilon" and self.own == self.sampler:
            return output
        prediction, logits = split_output(output, x.shape[1])
        x_0 = to_x_0(prediction, self.state(x), *self.own, self.prediction_type)
        epsilon = from_x_0(x_0, x, *self.sampler, "epsilon")
        return epsilon if logits is None else torch.cat([epsilon, logits], dim=1)


def views(
    spec, schedule: NoiseSchedule, timesteps: Sequence[float], aligned: bool = True
) -> list[View]:
    """The views of a denoiser along a sampler's timesteps.

    Args:
        spec: the denoiser's (``models.DenoiserSpec``).
        schedule, timesteps: the sampler's.
        aligned: False calls the denoiser at the sampler's timesteps and takes its predictions as if
            it had been trained on the sampler's schedule: the naive stitch.
    """
    alpha, sigma, half_log_snr = schedule.at(timesteps)
    theirs, times = schedule, np.asarray(timesteps, dtype=np.float64)
    if aligned and spec.schedule != schedule.name:
        theirs = NoiseSchedule.create(spec.schedule)
        times = theirs.time_at(half_log_snr)
    if not spec.fractional_timesteps:
        times = np.round(times)
    own_alpha, own_sigma, _ = theirs.at(times)
    scale = theirs.norm_at(times)
    rows = zip(
        (times + spec.timestep_offset).tolist(),
        scale.tolist(),
        zip((scale * own_alpha).tolist(), (scale * own_sigma).tolist(), strict=True),
        zip(alpha.tolist(), sigma.tolist(), strict=True),
        strict=True,
    )
    return [View(*row, spec.prediction_type) for row in rows]
