"""DPM-Solver (Lu et al. 2022, arXiv 2206.00927) and DPM-Solver++ (arXiv 2211.01095)."""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from models.errors import InputError
from samplers.loss import split_output
from samplers.sampler import Callback, Denoise, Noise
from samplers.schedule import NoiseSchedule
from samplers.spacing import check_steps, check_timesteps, equal_parts, grid

ALGORITHMS = ("dpmsolver++", "dpmsolver")
METHODS = ("multistep", "singlestep")
HISTORIES = ("keep", "restart")


@dataclass(frozen=True, eq=False)
class DPMSolver:
    """Exponential integrators of the probability flow, orders 1 to 3.

    Both papers' solvers are one scheme. A step from s to t is

        x_t = (a_t / a_s) x_s - b_t (exp(h) - 1) (m_s + phi_2 m'_s + phi_3 m''_s),
        h = mu_t - mu_s,  phi_2 = 1 / h - 1 / e1,  phi_3 = phi_2 / h - 1 / (2 e1),  e1 = exp(h) - 1

    where m' and m'' are h dm/dmu and h^2 d^2m/dmu^2, taken as finite differences. The papers'
    symbols, with lambda = log(alpha / sigma), are

    ============ ===== ===== ======= =============
    paper        a     b     mu      m
    ============ ===== ===== ======= =============
    DPM-Solver   alpha sigma lambda  epsilon_theta
    DPM-Solver++ sigma alpha -lambda x_theta
    ============ ===== ===== ======= =============

    so that h is minus DPM-Solver++'s own. The second order takes phi_2 = 1/2, as LuChengTHU's
    ``dpm_solver_pytorch.py`` does with ``solver_type="dpmsolver"``.

    Attributes:
        schedule: the noise schedule of the denoisers.
        times: N + 1 descending fractional timesteps for N steps. Step i, one network evaluation,
            is at ``times[i]``; sampling stops at ``times[-1]``.
        order: 1 (which is DDIM), 2 or 3.
        lower_order_final: (multistep) whether the last steps have orders ..., 2, 1 if there are
            fewer than 10 steps. ``dpm_solver_pytorch.py`` has this limit too; its documentation
            says 15.
        algorithm: ``dpmsolver++`` or ``dpmsolver``.
        method: ``multistep`` takes differences with earlier steps, ``singlestep`` inside groups of
            ``order`` steps. The last groups may be smaller (see ``group_orders``).
        history: (multistep) what happens when another denoiser takes over: ``keep`` the earlier
            predictions, or ``restart`` without them, at order 1.
        exact_curvature: (multistep, order 3) True: m'' is twice the second divided difference,
            which is right, and the solver converges with order 3. False: m'' is that difference
            once, as in ``dpm_solver_pytorch.py`` and diffusers, and it converges with order 2.
    """

    default_spacing: ClassVar[str] = "time-uniform"

    schedule: NoiseSchedule
    times: list[float]
    order: int = 2
    lower_order_final: bool = True
    algorithm: str = "dpmsolver++"
    method: str = "multistep"
    history: str = "keep"
    exact_curvature: bool = False

    def __post_init__(self):
        check_timesteps(self.times, self.schedule, float)
        check_order(self.order)
        for setting, known in (
            ("algorithm", ALGORITHMS), ("method", METHODS), ("history", HISTORIES),
        ):  # fmt: skip
            if getattr(self, setting) not in known:
                value = getattr(self, setting)
                raise InputError(f"sampler.{setting}={value!r} is unknown; known: {known}")
        if self.exact_curvature and (self.method, self.order) != ("multistep", 3):
            raise InputError(
                "sampler.exact_curvature=true needs sampler.method=multistep and sampler.order=3"
            )
        if self.method == "singlestep" and self.history == "restart":
            raise InputError("sampler.history=restart needs sampler.method=multistep")

    @staticmethod
    def place(
        spacing: str,
        steps: int,
        schedule: NoiseSchedule,
        method: str = "multistep",
        order: int = 2,
        **_,
    ) -> list[float]:
        """The ``steps`` + 1 times of a spacing (see ``spacing.grid``).

        In log-SNR, the *groups* of singlestep are equally long, even if the last are of lower
        order, as in ``dpm_solver_pytorch.py``.
        """
        check_steps(steps, 1, schedule.num_timesteps)
        progress = equal_parts(steps)
        if method == "singlestep" and spacing == "log-snr":
            check_order(order)
            orders = group_orders(steps, order)
            starts = [(g + i / o) / len(orders) for g, o in enumerate(orders) for i in range(o)]
            progress = [*starts, 1.0]
        return grid(spacing, progress, schedule)

    @property
    def timesteps(self) -> list[float]:
        """The fractional timesteps at which the network is called, one per step."""
        return self.times[:-1]

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        noise: Noise | None = None,
        callback: Callback | None = None,
        switches: Collection[int] = (),
    ) -> Tensor:
        """Walk as ``samplers.Sampler`` says, to ``times[-1]``. Needs no noise; ignores logits.

        Inside a group of ``singlestep``, the callback's x is the state of the next evaluation.
        """
        alpha, sigma, half_log_snr = (table.tolist() for table in self.schedule.at(self.times))
        plus = self.algorithm == "dpmsolver++"
        a, b = (sigma, alpha) if plus else (alpha, sigma)
        mu = [-value for value in half_log_snr] if plus else half_log_snr
        advance = self._multistep if self.method == "multistep" else self._singlestep()
        past = []  # (x, prediction) of the steps so far that may still matter
        for step, t in enumerate(self.timesteps):
            epsilon, _ = split_output(denoise(x, step), x.shape[1])
            x_0 = (x - sigma[step] * epsilon) / alpha[step]
            if self.history == "restart" and step in switches:
                past.clear()
            past.append((x, x_0 if plus else epsilon))
            x = advance(step, past, a, b, mu)
            if callback:
                callback(step=step, t=t, x=x, x_0=x_0)
        return x

    def _multistep(self, step: int, past: list, a: list, b: list, mu: list) -> Tensor:
        """The state after ``step`` from the predictions at this and the steps before it."""
        steps = len(self.times) - 1
        order = min(self.order, len(past))
        if self.lower_order_final and steps < 10:
            order = min(order, steps - step)
        del past[: -self.order]
        (x, m), h = past[-1], mu[step + 1] - mu[step]
        e1 = math.expm1(h)
        extrapolated = m
        if order > 1:
            r_0 = (mu[step] - mu[step - 1]) / h
        if order == 2:
            extrapolated = m + (m - past[-2][1]) / (2 * r_0)
        if order == 3:
            r_1 = (mu[step - 1] - mu[step - 2]) / h
            first, before = (m - past[-2][1]) / r_0, (past[-2][1] - past[-3][1]) / r_1
            second = (first - before) / (r_0 + r_1)
            curvature = 2 if self.exact_curvature else 1
            phi_2 = 1 / h - 1 / e1
            phi_3 = phi_2 / h - 1 / (2 * e1)
            extrapolated = m + phi_2 * (first + r_0 * second) + curvature * phi_3 * second
        return a[step + 1] / a[step] * x - b[step + 1] * e1 * extrapolated

    def _singlestep(self) -> Callable[..., Tensor]:
        """An ``advance`` that starts every group of steps afresh."""
        orders = group_orders(len(self.times) - 1, self.order)
        order_at = [order for order in orders for _ in range(order)]
        start_at = [sum(orders[:g]) for g, order in enumerate(orders) for _ in range(order)]

        def advance(step: int, past: list, a: list, b: list, mu: list) -> Tensor:
            start = start_at[step]
            del past[: start - step - 1]
            (x, m), h = past[0], mu[step + 1] - mu[start]
            e1 = math.expm1(h)
            extrapolated = m
            if step > start:
                phi_2 = 1 / 2 if order_at[step] == 2 else 1 / h - 1 / e1
                extrapolated = m + phi_2 * h / (mu[step] - mu[start]) * (past[-1][1] - m)
            return a[step + 1] / a[start] * x - b[step + 1] * e1 * extrapolated

        return advance


def check_order(order: int) -> None:
    """Raise InputError unless a solver of that order exists."""
    if order not in (1, 2, 3):
        raise InputError(f"sampler.order={order} must be 1, 2 or 3")


def group_orders(steps: int, order: int) -> list[int]:
    """The orders of singlestep's groups, which sum to ``steps`` (DPM-Solver-fast in the paper).

    There are as many groups of ``order`` as fit, and one of the rest. If there is no rest, order 3
    ends with groups of 2 and 1 instead of one of 3.
    """
    groups, rest = divmod(steps, order)
    if order == 3 and rest == 0:
        return [3] * (groups - 1) + [2, 1]
    return [order] * groups + [rest] * (rest > 0)
