"""DDIM (Song et al. 2021, arXiv 2010.02502)."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from samplers.loss import split_output
from samplers.schedule import NoiseSchedule


@dataclass(frozen=True, eq=False)
class DDIM:
    """Denoising diffusion implicit model.

    Attributes:
        schedule: the noise schedule of the denoisers.
        timesteps: descending integers; step i calls ``denoise(x, i)`` at ``timesteps[i]``.
        eta: 0 is deterministic, 1 has DDPM's variance (eq. 16).
    """

    schedule: NoiseSchedule
    timesteps: list[int]
    eta: float = 0.0

    def __post_init__(self):
        if not 0 <= self.eta <= 1:
            raise ValueError(f"sampler.eta={self.eta} must be between 0 and 1")

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
            noise: step -> (B, C, H, W) standard normal; only called if ``eta`` > 0.
            callback: called with ``step, t, x, x_0`` after every step.

        Returns:
            (B, C, H, W) latents.
        """
        process = self.schedule.respaced(self.timesteps)
        alphas = process.alphas_cumprod.tolist()
        alphas_prev = process.alphas_cumprod_prev.tolist()
        variances = process.posterior_variance.tolist()
        for step, t in enumerate(self.timesteps):
            alpha, alpha_prev = alphas[step], alphas_prev[step]
            epsilon, _ = split_output(denoise(x, step), x.shape[1])
            x_0 = (x - (1 - alpha) ** 0.5 * epsilon) / alpha**0.5
            # Eq. 12; DDPM's posterior variance is sigma at eta = 1.
            variance = self.eta**2 * variances[step]
            x = alpha_prev**0.5 * x_0 + (1 - alpha_prev - variance) ** 0.5 * epsilon
            if variance > 0:
                x = x + variance**0.5 * noise(step)
            if callback:
                callback(step=step, t=t, x=x, x_0=x_0)
        return x
