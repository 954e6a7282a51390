"""Observed orders of the solvers on Gaussian data, whose exact trajectory is known.

Run ``python -m tests.samplers.test_convergence`` for the table of errors.
"""

import math

import numpy as np
import pytest
import torch

import samplers
from samplers import NoiseSchedule
from tests import gaussian

LINEAR = NoiseSchedule.create("ddpm-linear")
# The same, whose timestep 0 is 400.
NOISY = NoiseSchedule("noisy", torch.cat([1 - LINEAR.alphas_cumprod[400:401], LINEAR.betas[401:]]))
# name -> (sampler and options, numbers of steps, order with its margins)
SOLVERS = {
    "DDIM": (("ddim", dict(set_alpha_to_one=False)), (25, 50, 100, 200), (0.8, 1.3)),
    "DPM-Solver++(1)": (("dpm_solver", dict(order=1)), (20, 40, 80, 160), (0.8, 1.3)),
    "DPM-Solver++(2M)": (("dpm_solver", dict(order=2)), (20, 40, 80, 160), (1.7, 2.4)),
    "DPM-Solver++(3M)": (
        ("dpm_solver", dict(order=3, exact_curvature=True)), (20, 40, 80, 160), (2.6, 3.6),
    ),
    "  as the reference": (("dpm_solver", dict(order=3)), (20, 40, 80, 160), (1.7, 2.4)),
    "DPM-Solver++(2S)": (
        ("dpm_solver", dict(order=2, method="singlestep")), (20, 40, 80, 160), (1.7, 2.4),
    ),
    "DPM-Solver++(3S)": (
        ("dpm_solver", dict(order=3, method="singlestep")), (29, 59, 119, 239), (2.6, 3.6),
    ),
    "DPM-Solver-1": (
        ("dpm_solver", dict(order=1, algorithm="dpmsolver")), (20, 40, 80, 160), (0.8, 1.3),
    ),
    "DPM-Solver-2M": (
        ("dpm_solver", dict(order=2, algorithm="dpmsolver")), (20, 40, 80, 160), (1.7, 2.4),
    ),
    "DPM-Solver-3M": (
        ("dpm_solver", dict(order=3, algorithm="dpmsolver", exact_curvature=True)),
        (20, 40, 80, 160), (2.6, 3.6),
    ),
    "DPM-Solver-3S": (
        ("dpm_solver", dict(order=3, algorithm="dpmsolver", method="singlestep")),
        (29, 59, 119, 239), (2.6, 3.6),
    ),
    "UniP-1": (("unipc", dict(order=1, corrector=False)), (20, 40, 80, 160), (0.8, 1.3)),
    "UniP-2": (("unipc", dict(order=2, corrector=False)), (20, 40, 80, 160), (1.7, 2.4)),
    "UniP-3": (("unipc", dict(order=3, corrector=False)), (20, 40, 80, 160), (2.6, 3.6)),
    "UniP-3 in epsilon": (
        ("unipc", dict(order=3, corrector=False, predict_x0=False)), (20, 40, 80, 160), (2.6, 3.6),
    ),
    "UniPC-1": (("unipc", dict(order=1)), (20, 40, 80, 160), (1.7, 2.4)),
    "UniPC-2": (("unipc", dict(order=2)), (20, 40, 80, 160), (2.6, 3.6)),
    "UniPC-2, bh1": (("unipc", dict(order=2, variant="bh1")), (20, 40, 80, 160), (2.6, 3.6)),
    "UniPC-3": (("unipc", dict(order=3)), (20, 40, 80, 160), (3.6, 4.6)),
    "Heun": (("heun", {}), (20, 40, 80, 160), (1.7, 2.4)),
}  # fmt: skip


def errors(name: str) -> list[float]:
    """Largest distance from the exact end, relative to the latents' size, for every step count.

    DPM-Solver and UniPC are stopped at timestep 400: on all of a Gaussian's trajectory, errors of
    third order cancel.
    """
    (sampler, options), counts, _ = SOLVERS[name]
    x, end = gaussian.start(), 400 if sampler in ("dpm_solver", "unipc") else 0
    exact = gaussian.spread(LINEAR, end) / gaussian.spread(LINEAR, 999) * x
    schedule = NOISY if sampler == "unipc" else LINEAR
    if sampler == "heun":
        # Its last step, from timestep 0 to clean latents, is one Euler step for any step count.
        exact = exact * LINEAR.alphas_cumprod[0].sqrt() * gaussian.STD**2
        exact = exact / gaussian.spread(LINEAR, 0) ** 2
    found = []
    for steps in counts:
        if sampler == "dpm_solver":
            half_log_snr = np.linspace(*LINEAR.half_log_snr[[999, end]].tolist(), steps + 1)
            options = options | {"spacing": LINEAR.time_at(half_log_snr).tolist()}
        if sampler == "unipc":
            fixed = dict(spacing="log-snr", lower_order_final=False, set_alpha_to_one=False)
            options = options | fixed
        solver = samplers.create(sampler, steps, schedule, **options)
        final = solver(gaussian.denoise(schedule, solver.timesteps), x)
        found.append(((final - exact).abs().max() / exact.abs().max()).item())
    return found


def orders(name: str) -> list[float]:
    """Observed order between neighbouring step counts."""
    found, counts = errors(name), SOLVERS[name][1]
    return [
        math.log(found[i] / found[i + 1]) / math.log(counts[i + 1] / counts[i])
        for i in range(len(counts) - 1)
    ]


@pytest.mark.parametrize("name", SOLVERS)
def test_the_error_falls_with_the_solvers_order(name):
    low, high = SOLVERS[name][2]
    assert low < orders(name)[-1] < high


if __name__ == "__main__":
    for solver, (_, counts, _) in SOLVERS.items():
        row = "  ".join(f"{n:4d}: {e:.2e}" for n, e in zip(counts, errors(solver), strict=True))
        print(f"{solver:18} {row}   order {', '.join(f'{order:.2f}' for order in orders(solver))}")
