"""Which timesteps a sampler visits, in sampling order (descending).

``visits`` gives integers, for samplers of a respaced discrete process (DDPM, DDIM, PNDM). ``grid``
gives fractional timesteps, for solvers in continuous time; an integer t is the schedule's timestep.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from models.errors import InputError
from samplers.schedule import NoiseSchedule

VISITS = ("trailing-inclusive", "stride", "ldm", "leading", "trailing", "linspace", "karras")
GRIDS = ("time-uniform", "quadratic", "log-snr", "karras")


def visits(name: str, steps: int, schedule: NoiseSchedule) -> list[int]:
    """``steps`` distinct integer timesteps, descending.

    ==================== =========================================================================
    trailing-inclusive   the paper's: T - 1 to 0, both included (DiT's respacing "100")
    stride               every k-th from 0, if ``steps`` in number (DiT's respacing "ddim100")
    ldm                  1 + every (T / steps)-th from 0 (CompVis' latent-diffusion)
    leading, trailing,   diffusers' ``timestep_spacing``: from 0 on, down from T - 1, both ends
    linspace
    karras               the timesteps nearest to ``grid``'s
    ==================== =========================================================================

    Raises:
        InputError: for an unknown name, a number of steps outside [1, T] ([2, T] where both ends
            are included), or a number of steps for which the spacing does not exist.
    """
    total = schedule.num_timesteps
    if name == "trailing-inclusive":
        return trailing_inclusive(steps, total)
    check_steps(steps, 2 if name in ("linspace", "karras") else 1, total)
    if name == "stride":
        strides = (range(0, total, k) for k in range(1, total + 1))
        ascending = next((kept for kept in strides if len(kept) == steps), None)
        if ascending is None:
            raise InputError(f"no stride visits sampler.steps={steps} of {total} timesteps exactly")
    elif name == "ldm":
        if total % steps or steps == total:
            raise InputError(
                f"sampler.spacing=ldm needs sampler.steps={steps} to divide {total} and be less"
            )
        ascending = range(1, total, total // steps)
    elif name == "leading":
        ascending = [k * (total // steps) for k in range(steps)]
    elif name == "trailing":
        ascending = (np.round(np.arange(total, 0, -total / steps))[:steps][::-1] - 1).astype(int)
    elif name == "linspace":
        ascending = np.round(np.linspace(0, total - 1, steps)).astype(int)
    elif name == "karras":
        ascending = np.round(grid("karras", equal_parts(steps - 1), schedule)[::-1]).astype(int)
        if len(set(ascending.tolist())) < steps:
            raise InputError(f"sampler.spacing=karras visits a timestep twice in {steps} steps")
    else:
        raise _unknown(name, VISITS)
    return [int(t) for t in ascending][::-1]


def grid(name: str, progress: Sequence[float], schedule: NoiseSchedule) -> list[float]:
    """Fractional timesteps from T - 1 to 0, at the given progress between the two.

    Args:
        name: what changes evenly with progress: for ``time-uniform`` time, for ``quadratic`` the
            square root of time (both counted from 1 / T, as in DPM-Solver), for ``log-snr``
            log-SNR, for ``karras`` (sigma / alpha)^(1/7) (Karras et al. 2022, eq. 5).
        progress: ascending, from 0 (noise) to 1 (image), such as ``equal_parts(steps)``.
    """
    u, last = np.asarray(progress, dtype=np.float64), schedule.num_timesteps - 1
    if name == "time-uniform":
        return (last * (1 - u)).tolist()
    if name == "quadratic":
        return np.clip(((1 - u) * (last + 1) ** 0.5 + u) ** 2 - 1, 0, last).tolist()
    noisiest, cleanest = schedule.half_log_snr[[-1, 0]].tolist()
    if name == "log-snr":
        half_log_snr = (1 - u) * noisiest + u * cleanest
    elif name == "karras":
        rho = 7.0
        half_log_snr = -rho * np.log(
            (1 - u) * np.exp(-noisiest / rho) + u * np.exp(-cleanest / rho)
        )
    else:
        raise _unknown(name, GRIDS)
    return schedule.time_at(half_log_snr).tolist()


def _unknown(name: str, known: Sequence[str]) -> InputError:
    return InputError(
        f"unknown sampler.spacing={name!r}; known: {', '.join(known)}, or the timesteps in a list "
        "or in a .json or .txt file"
    )


def equal_parts(parts: int) -> list[float]:
    """Progress of ``parts`` equal steps: 0, 1 / parts, ..., 1."""
    return [i / parts for i in range(parts + 1)]


def trailing_inclusive(steps: int, num_timesteps: int = 1000) -> list[int]:
    """The paper's spacing: ``steps`` integers from T - 1 to 0, both ends included.

    Timestep i (ascending) is round(i * (T - 1) / (steps - 1)), halves to even. The stride is
    accumulated, so that the roundings agree with those of DiT's respacing ("100", not "ddim100").

    Raises:
        InputError: if ``steps`` is not in [2, T].
    """
    check_steps(steps, 2, num_timesteps)
    stride = (num_timesteps - 1) / (steps - 1)
    position, ascending = 0.0, []
    for _ in range(steps):
        ascending.append(round(position))
        position += stride
    return ascending[::-1]


def check_steps(steps: int, fewest: int, most: int) -> None:
    """Raise InputError unless ``steps`` is a whole number in [fewest, most]."""
    if type(steps) is not int or not fewest <= steps <= most:
        raise InputError(f"sampler.steps={steps} must be a whole number from {fewest} to {most}")


def check_timesteps(timesteps: Sequence[float], schedule: NoiseSchedule, kind: type) -> None:
    """Raise InputError unless ``timesteps`` are of a ``kind``, within [0, T) and descending."""
    last = schedule.num_timesteps - 1
    if not timesteps or not all(type(t) in (int, kind) for t in timesteps):
        raise InputError(f"timesteps must be a list of {kind.__name__}, not {timesteps!r}")
    for here, there in itertools.pairwise(timesteps):
        if not there < here:
            raise InputError(f"timesteps must decrease, but {there:g} comes after {here:g}")
    if timesteps[0] > last or timesteps[-1] < 0:
        raise InputError(
            f"timesteps from {timesteps[0]:g} to {timesteps[-1]:g} leave the schedule's 0 to {last}"
        )
