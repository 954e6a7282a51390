"""DDIM (Song et al. 2021, arXiv 2010.02502)."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from models.errors import InputError
from samplers.loss import split_output
from samplers.sampler import Callback, Denoise, Noise
from samplers.schedule import NoiseSchedule
from samplers.spacing import check_timesteps, visits


@dataclass(frozen=True, eq=False)
class DDIM:
    """Denoising diffusion implicit model.

    CompVis' latent-diffusion samples with ``spacing=ldm`` and ``set_alpha_to_one=False``.

    Attributes:
        schedule: the noise schedule of the denoisers.
        timesteps: descending integers.
        eta: 0 is deterministic, 1 has DDPM's variance (eq. 16).
        set_alpha_to_one: True: the last step ends at clean latents. False: it ends at the noise
            level of timestep 0, and adds noise there if ``eta`` > 0.
    """

    default_spacing: ClassVar[str] = "trailing-inclusive"

    schedule: NoiseSchedule
    timesteps: list[int]
    eta: float = 0.0
    set_alpha_to_one: bool = True

    def __post_init__(self):
        check_timesteps(self.timesteps, self.schedule, int)
        if not 0 <= self.eta <= 1:
            raise InputError(f"sampler.eta={self.eta} must be between 0 and 1")

    @staticmethod
    def place(spacing: str, steps: int, schedule: NoiseSchedule, **_) -> list[int]:
        """The ``steps`` timesteps of a spacing (see ``spacing.visits``)."""
        return visits(spacing, steps, schedule)

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        noise: Noise | None = None,
        callback: Callback | None = None,
        switches: Collection[int] = (),
    ) -> Tensor:
        """Walk as ``samplers.Sampler`` says. Needs noise only if ``eta`` > 0; ignores logits."""
        last = 1.0 if self.set_alpha_to_one else self.schedule.alphas_cumprod[0].item()
        process = self.schedule.respaced(self.timesteps, last)
        alphas = process.alphas_cumprod.tolist()
        alphas_prev = process.alphas_cumprod_prev.tolist()
        variances = process.posterior_variance.tolist()
        for step, t in enumerate(self.timesteps):
            alpha, alpha_prev = alphas[step], alphas_prev[step]
            epsilon, _ = split_output(denoise(x, step), x.shape[1])
            # Eq. 9: x_0 from epsilon.
            x_0 = (x - (1 - alpha) ** 0.5 * epsilon) / alpha**0.5
            # Eq. 16: sigma^2, which is DDPM's posterior variance at eta = 1.
            variance = self.eta**2 * variances[step]
            # Eq. 12: x_0, the direction to x_t, and noise.
            x = alpha_prev**0.5 * x_0 + (1 - alpha_prev - variance) ** 0.5 * epsilon
            if variance > 0:
                x = x + variance**0.5 * noise(step)
            if callback:
                callback(step=step, t=t, x=x, x_0=x_0)
        return x
