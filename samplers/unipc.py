"""UniPC, a multistep predictor with a corrector (Zhao et al. 2023, arXiv 2302.04867)."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from models.errors import InputError
from samplers.dpm_solver import HISTORIES, check_order
from samplers.loss import split_output
from samplers.sampler import Callback, Denoise, Noise
from samplers.schedule import NoiseSchedule
from samplers.spacing import check_steps, check_timesteps, equal_parts, grid

VARIANTS = ("bh1", "bh2")


@dataclass(frozen=True, eq=False)
class UniPC:
    """Exponential integrator of the probability flow; orders 1 to 3, and one more if corrected.

    UniP, the predictor, and UniC, the corrector, are one formula. A step from s to t is

        x_t = (a_t / a_s) x_s - b_t ((exp(h) - 1) m_s + sum_k c_k (m_k - m_s) / r_k),
        sum_k c_k r_k^(n - 1) = n! h phi_(n + 1)(h)  for n = 1, 2, ...

    with a, b, h = mu_t - mu_s and m as in ``samplers.dpm_solver``, and r_k = (mu_k - mu_s) / h. The
    predictions m_k are those of earlier steps for UniP; UniC walks the same step again with the
    prediction at t among them (r = 1). That prediction was made for the next step anyway, so a step
    costs one network evaluation with or without UniC.

    A single c is not solved for but B(h) / 2, which the variant gives: B is h for ``bh1``, and
    exp(h) - 1 for ``bh2``. With more than one, B cancels, and the variants are the same.

    Attributes:
        schedule: the noise schedule of the denoisers.
        timesteps: descending fractional timesteps, one per step.
        order: of UniP, 1 (which is DDIM), 2 or 3. Each step is corrected with UniC of its order.
        variant: ``bh1`` or ``bh2``.
        corrector: whether UniC corrects the state once the prediction there is known.
        predict_x0: whether m is x_theta (as in DPM-Solver++) or epsilon_theta (as in DPM-Solver).
        lower_order_final: whether the last steps have orders ..., 2, 1.
        set_alpha_to_one: True: the last step ends at clean latents, which only order 1 can. False:
            it ends at the noise level of timestep 0.
        history: what happens when another denoiser takes over: ``keep`` the earlier predictions, or
            ``restart`` without them: the step to there is not corrected, the next has order 1.
    """

    default_spacing: ClassVar[str] = "time-uniform"

    schedule: NoiseSchedule
    timesteps: list[float]
    order: int = 2
    variant: str = "bh2"
    corrector: bool = True
    predict_x0: bool = True
    lower_order_final: bool = True
    set_alpha_to_one: bool = True
    history: str = "keep"

    def __post_init__(self):
        check_timesteps(self.timesteps, self.schedule, float)
        check_order(self.order)
        for setting, known in (("variant", VARIANTS), ("history", HISTORIES)):
            if getattr(self, setting) not in known:
                value = getattr(self, setting)
                raise InputError(f"sampler.{setting}={value!r} is unknown; known: {known}")
        if not self.set_alpha_to_one and self.timesteps[-1] == 0:
            raise InputError(
                "sampler.set_alpha_to_one=false ends at timestep 0, so the last of sampler.spacing "
                "must be above 0"
            )

    @staticmethod
    def place(spacing: str, steps: int, schedule: NoiseSchedule, **_) -> list[float]:
        """The ``steps`` timesteps of a spacing (see ``spacing.grid``), without its end at 0."""
        check_steps(steps, 1, schedule.num_timesteps)
        return grid(spacing, equal_parts(steps), schedule)[:-1]

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        noise: Noise | None = None,
        callback: Callback | None = None,
        switches: Collection[int] = (),
    ) -> Tensor:
        """Walk as ``samplers.Sampler`` says. Needs no noise; ignores variance logits.

        The callback's x is what UniP predicts, the state of the next evaluation.
        """
        tables = self.schedule.at([*self.timesteps, 0])
        alpha, sigma, half_log_snr = (table.tolist() for table in tables)
        a, b = (sigma, alpha) if self.predict_x0 else (alpha, sigma)
        mu = [-value for value in half_log_snr] if self.predict_x0 else half_log_snr
        steps = len(self.timesteps)

        def walk(x: Tensor, s: int, t: int, m: dict[int, Tensor]) -> Tensor:
            """From the state at time s to that at t, given the predictions at some times."""
            h = mu[t] - mu[s]
            others = [k for k in m if k != s]
            r = [(mu[k] - mu[s]) / h for k in others]
            moved = a[t] / a[s] * x - b[t] * math.expm1(h) * m[s]
            for k, r_k, c_k in zip(others, r, self._weights(r, h), strict=True):
                moved = moved - b[t] * c_k / r_k * (m[k] - m[s])
            return moved

        start, past = x, {}  # the state that the step before began at; time -> prediction
        for step, t in enumerate(self.timesteps):
            epsilon, _ = split_output(denoise(x, step), x.shape[1])
            x_0 = (x - sigma[step] * epsilon) / alpha[step]
            if self.history == "restart" and step in switches:
                past = {}
            past[step] = x_0 if self.predict_x0 else epsilon
            if self.corrector and len(past) > 1:
                x = walk(start, step - 1, step, past)
            order = min(self.order, steps - step) if self.lower_order_final else self.order
            past = dict(list(past.items())[-order:])
            start = x
            if self.set_alpha_to_one and step == steps - 1:
                x = x_0 if self.predict_x0 else (x - sigma[step] * epsilon) / alpha[step]
            else:
                x = walk(x, step, step + 1, past)
            if callback:
                callback(step=step, t=t, x=x, x_0=x_0)
        return x

    def _weights(self, r: Sequence[float], h: float) -> list[float]:
        """c_1, c_2, ... of predictions at the relative times ``r``."""
        if len(r) == 1:
            return [(h if self.variant == "bh1" else math.expm1(h)) / 2]
        moments, term = [], math.expm1(h)  # h phi_1(h)
        for n in range(1, len(r) + 1):
            term = term / h - 1 / math.factorial(n)  # h phi_(n + 1)(h)
            moments.append(math.factorial(n) * term)
        return np.linalg.solve(np.vander(r, increasing=True).T, moments).tolist()
