"""PNDM's linear multistep, "PLMS" (Liu et al. 2022, arXiv 2202.09778)."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from models.errors import InputError
from samplers.loss import split_output
from samplers.sampler import Callback, Denoise, Noise
from samplers.schedule import NoiseSchedule
from samplers.spacing import check_timesteps, visits

# Adams-Bashforth weights of the newest to the oldest epsilon, by how many there are.
_WEIGHTS = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


@dataclass(frozen=True, eq=False)
class PNDM:
    """Pseudo linear multistep method of fourth order, often used for Stable Diffusion.

    Every step is DDIM's with an extrapolated epsilon. The first interval is walked twice, the
    second time with the mean of the epsilons at its two ends. So N visited timesteps need N + 1
    network evaluations; each of them is a step of this sampler.

    Attributes:
        schedule: the noise schedule of the denoisers.
        visits: N descending integers, evenly spaced (the extrapolation assumes it).
        set_alpha_to_one: True: the last step ends at clean latents. False: it ends at the noise
            level of timestep 0.
        history: what happens when another denoiser takes over: ``keep`` the earlier epsilons, or
            ``restart`` without them, at order 1.
    """

    default_spacing: ClassVar[str] = "leading"

    schedule: NoiseSchedule
    visits: list[int]
    set_alpha_to_one: bool = False
    history: str = "keep"

    def __post_init__(self):
        check_timesteps(self.visits, self.schedule, int)
        if self.history not in ("keep", "restart"):
            raise InputError(f"sampler.history={self.history!r} is unknown; known: keep, restart")

    @staticmethod
    def place(spacing: str, steps: int, schedule: NoiseSchedule, **_) -> list[int]:
        """The ``steps`` timesteps of a spacing (see ``spacing.visits``)."""
        return visits(spacing, steps, schedule)

    @property
    def timesteps(self) -> list[int]:
        """The timesteps at which the network is called, one per step."""
        return [*self.visits[:2], *self.visits[1:]]

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        noise: Noise | None = None,
        callback: Callback | None = None,
        switches: Collection[int] = (),
    ) -> Tensor:
        """Walk as ``samplers.Sampler`` says. Needs no noise; ignores variance logits."""
        last = 1.0 if self.set_alpha_to_one else self.schedule.alphas_cumprod[0].item()
        alphas = [*self.schedule.alphas_cumprod[self.visits].tolist(), last]
        start, past = x, []  # newest epsilon first
        for step, t in enumerate(self.timesteps):
            here = step if step < 2 else step - 1
            epsilon, _ = split_output(denoise(x, step), x.shape[1])
            x_0 = (x - (1 - alphas[here]) ** 0.5 * epsilon) / alphas[here] ** 0.5
            if self.history == "restart" and step in switches:
                past.clear()
            if step == 1:
                mean = (epsilon + past[0]) / 2 if past else epsilon
                x = _transfer(start, mean, alphas[0], alphas[1])
            else:
                past = [epsilon, *past[:3]]
                weights = _WEIGHTS[len(past)]
                slope = sum(weight * value for weight, value in zip(weights, past, strict=True))
                x = _transfer(x, slope, alphas[here], alphas[here + 1])
            if callback:
                callback(step=step, t=t, x=x, x_0=x_0)
        return x


def _transfer(x: Tensor, epsilon: Tensor, alpha: float, alpha_prev: float) -> Tensor:
    """The transfer part of a step (eq. 11): DDIM's step with eta = 0 between two noise levels."""
    x_0 = (x - (1 - alpha) ** 0.5 * epsilon) / alpha**0.5
    return alpha_prev**0.5 * x_0 + (1 - alpha_prev) ** 0.5 * epsilon
