"""Timesteps fitted to a many-step trajectory: few steps that end at nearly the same latents."""

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.optimize import least_squares
from torch import Tensor

from models.errors import InputError
from samplers.sampler import Sampler
from samplers.schedule import NoiseSchedule

STEP = 0.1  # of finite differences: about a tenth of a length
KNOTS = 8  # numbers fitted, one of which is redundant; lengths between are interpolated
ENOUGH = 1e-3  # a smaller relative change ends the search


def relative_error(latents: Tensor, target: Tensor) -> float:
    """|latents - target| / |target|, norms over all of (B, C, H, W)."""
    return (torch.linalg.norm(latents.double() - target) / torch.linalg.norm(target)).item()


def fit_timesteps(
    walk: Callable[[list], Tensor],
    target: Tensor,
    start: Sequence[float],
    schedule: NoiseSchedule,
    last_is_free: bool,
    iterations: int = 10,
    report: Callable[[float, list], None] = lambda error, timesteps: None,
) -> list:
    """The timesteps with the least ``relative_error`` that were found, from ``start`` on.

    The final latents are a function of the lengths of the steps in log-SNR. Their distance from the
    target is a nonlinear least-squares problem, for the Gauss-Newton method in a trust region. The
    Jacobian is taken by differences of walks, so no network is differentiated. What is fitted are
    logarithms of lengths, which keeps timesteps in order, at ``KNOTS`` places at most, which keeps
    the cost of many steps down and their lengths smooth.

    Args:
        walk: timesteps -> (B, C, H, W) final latents on the CPU, always from the same noise.
        target: (B, C, H, W) float64 latents at the end of the many-step trajectory.
        start: descending timesteps. If all are whole numbers, those found are, too. The first stays
            where it is: there, the state is the noise.
        last_is_free: whether the last timestep may move. It may if the network is called there, and
            not if it is where sampling stops.
        iterations: Jacobians at most; each costs ``KNOTS`` walks, or one per step if those are
            fewer.
        report: called with every improvement.

    Returns:
        As many timesteps as ``start``; ``start`` itself if nothing better was found.
    """
    edges = schedule.at(start)[2]
    if last_is_free:
        edges = np.append(edges, schedule.half_log_snr[0].item())
    lengths = np.diff(edges)
    if last_is_free:  # it often is 0, and nothing has no logarithm
        lengths[-1] = max(lengths[-1], lengths.mean())
    places = np.arange(len(lengths))
    knots = np.linspace(0, len(lengths) - 1, min(len(lengths), KNOTS))
    whole = all(type(t) is int for t in start)
    scale = torch.linalg.norm(target)
    best, least = list(start), np.inf

    def placed(theta: np.ndarray) -> list:
        factors = np.exp(np.interp(places, knots, np.append(theta, 0)))
        parts = np.cumsum(lengths * factors)
        inner = edges[0] + (edges[-1] - edges[0]) * parts[:-1] / parts[-1]
        moved = schedule.time_at(inner).tolist()
        timesteps = [start[0], *moved, *([] if last_is_free else [start[-1]])]
        return _distinct(timesteps) if whole else timesteps

    @functools.lru_cache(maxsize=1)  # a Jacobian begins where the last step ended
    def residuals_at(timesteps: tuple) -> np.ndarray:
        nonlocal best, least
        difference = ((walk(list(timesteps)).double() - target) / scale).flatten().numpy()
        if (error := float(np.linalg.norm(difference))) < least:
            best, least = list(timesteps), error
            report(error, best)
        return difference

    def residuals(theta: np.ndarray) -> np.ndarray:
        return residuals_at(tuple(placed(theta)))

    def jacobian(theta: np.ndarray) -> np.ndarray:
        here = residuals(theta)
        moved = [residuals(theta + STEP * one) - here for one in np.eye(len(theta))]
        return np.stack(moved, axis=1) / STEP

    residuals_at(tuple(start))
    if len(knots) > 1:
        least_squares(
            residuals,
            np.zeros(len(knots) - 1),
            jacobian,
            ftol=ENOUGH,
            xtol=ENOUGH,
            max_nfev=iterations,
        )
    return best


def _distinct(timesteps: Sequence[float]) -> list[int]:
    """The nearest whole numbers, moved apart where two would be the same."""
    order = np.arange(len(timesteps))
    falling = np.minimum.accumulate(np.round(timesteps) + order) - order
    return np.maximum(falling, order[::-1]).astype(int).tolist()


def refuse_noise(sampler: Sampler) -> None:
    """Raise InputError if a sampler adds noise, which other steps would not add."""

    def noise(step: int) -> Tensor:
        raise InputError(
            f"sampler {type(sampler).__name__} adds noise at its steps, so its latents cannot "
            "match those of other steps; choose sampler=unipc or sampler.eta=0, for example"
        )

    x = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    sampler(lambda x, step: torch.cat([x, x], dim=1), x, noise=noise)
