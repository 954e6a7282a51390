"""What a sampler is: the one description of how samplers are called."""

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from torch import Tensor

from samplers.schedule import NoiseSchedule

Denoise = Callable[[Tensor, int], Tensor]
Noise = Callable[[int], Tensor]
Callback = Callable[..., None]


class Sampler(Protocol):
    """Walks from noise to latents. One step is one network evaluation.

    A sampler knows no networks, guidance or devices, and keeps no state from one call to the next.
    """

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise schedule of the states that ``denoise`` is shown."""

    @property
    def timesteps(self) -> Sequence[float]:
        """One per step, never increasing: step i calls ``denoise(x, i)`` at ``timesteps[i]``."""

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        noise: Noise,
        callback: Callback | None = None,
        switches: Collection[int] = (),
    ) -> Tensor:
        """Walk from noise to latents.

        Args:
            denoise: (x, step) -> (B, C, H, W) epsilon, or (B, 2C, H, W) with variance logits behind
                it. Samplers that do not need the logits ignore them.
            x: (B, C, H, W) standard normal. All states have its dtype and device.
            noise: step -> (B, C, H, W) standard normal, which the sampler adds at that step.
                Samplers that can do without noise have None as the default.
            callback: called after every step as ``callback(step=..., t=..., x=..., x_0=...)``, with
                the step, its timestep, the (B, C, H, W) state after it, and the (B, C, H, W) clean
                latents that its prediction amounts to.
            switches: the steps whose denoiser is not the one of the step before. Samplers without a
                history ignore them.

        Returns:
            (B, C, H, W) latents.
        """
