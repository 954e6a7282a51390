"""Caches: at most steps, the expensive part of a network is forecast instead of computed.

What a network makes of a state changes smoothly along a trajectory. At every few steps it is
evaluated in full, and the result of its expensive part is kept; in between this is forecast from
what was kept, and only the cheap rest of the network is computed. The expensive part is the
network's own choice (``DenoiserSpec.cacheable``): all blocks of a transformer, the deep branch of a
U-Net.

Order 0, which holds the last one kept, is DeepCache (Ma et al. 2023, arXiv 2312.00858). Higher
orders forecast as TaylorSeer does (Liu et al. 2025, arXiv 2503.06923), which keeps the results of
every attention and MLP instead.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.errors import InputError
from samplers import check
from samplers.sampler import Denoise
from stitch.trajectory import Trajectory


@dataclass(frozen=True)
class Forecast:
    """A wrapper that forecasts most steps; see ``stitch.trajectory.Wrapper``.

    The schedule is static: it follows from the denoisers of the steps, and an image depends on
    nothing else in its batch. Where the denoisers change, or guidance begins or ends, everything is
    forgotten: the next steps are evaluated in full again.

    During a walk, ``order + 1`` results of every network that is called at a step are in memory, in
    the precision of the weights, and one more while a step is evaluated.

    Attributes:
        interval: every how many steps the networks are evaluated in full; 1: at all steps.
        order: of the polynomial over the sampler's timesteps that forecasts: 0 holds the last one
            kept, 1 goes on in a straight line. It goes through the last ``order + 1`` that were
            kept, or all if there are fewer. Of those at one timestep, such as two of Heun's steps,
            the last counts.
        warmup: how many steps are evaluated in full where everything has been forgotten.

    Raises:
        InputError: for anything but whole numbers, ``order`` 0 or more, the others 1 or more.
    """

    interval: int
    order: int = 0
    warmup: int = 1

    def __post_init__(self):
        for field, least in (("interval", 1), ("order", 0), ("warmup", 1)):
            check.whole(f"cache.{field}", getattr(self, field), least)

    def __str__(self) -> str:
        return f"in full every {self.interval} steps (cache of order {self.order})"

    def check(self, specs: Mapping[str, Any], evaluations: Sequence[tuple[str, ...]]) -> None:
        """Raise InputError unless the steps of a trajectory can be forecast.

        Args:
            specs: denoiser -> its spec.
            evaluations: the denoisers of every step; see ``stitch.evaluations``.
        """
        steps = len(evaluations)
        for setting, value in dataclasses.asdict(self).items():
            if value > steps:
                raise InputError(f"cache.{setting}={value} must be at most the {steps} steps")
        for name in dict.fromkeys(itertools.chain(*evaluations)):
            if not specs[name].cacheable:
                raise InputError(
                    f"cache.interval={self.interval}: {name} has no part that a cache could "
                    "forecast; DiT, U-ViT and LDM's U-Net have one; use cache=none"
                )

    def forecasts(self, evaluations: Sequence[tuple[str, ...]]) -> list[bool]:
        """Whether each step is forecast.

        Args:
            evaluations: see ``check``.
        """
        return [
            place >= self.warmup and (place - self.warmup + 1) % self.interval != 0
            for place in _places(evaluations)
        ]

    def calls(self, evaluations: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
        """``evaluations``, with ``forecast_of`` their names where they are forecast."""
        return [
            tuple(map(forecast_of, step)) if forecast else step
            for step, forecast in zip(evaluations, self.forecasts(evaluations), strict=True)
        ]

    def wrap(self, denoise: Denoise, trajectory: Trajectory) -> Denoise:
        """See ``stitch.trajectory.Wrapper``.

        A step that does not follow the one before, such as the first one of another walk, finds
        nothing kept; the same step may be asked for again.

        Raises:
            InputError: if ``denoise`` is another wrapper, or ``check`` raises it.
        """
        if denoise is not trajectory:
            raise InputError(
                "a cache must stand next to the trajectory, first in wrappers; it cannot be "
                "combined with a SharedPrefix"
            )
        evaluations = trajectory.evaluations
        names = dict.fromkeys(itertools.chain(*evaluations))
        self.check({name: trajectory.denoisers[name].spec for name in names}, evaluations)
        networks = {name: _Cached(trajectory.denoisers[name], self.order) for name in names}
        cached = dataclasses.replace(trajectory, denoisers=networks)
        forecasts, places = self.forecasts(evaluations), _places(evaluations)
        last = -1

        def answer(x: Tensor, step: int) -> Tensor:
            nonlocal last
            afresh = places[step] == 0 or step - last not in (0, 1)
            last = step
            for network in networks.values():
                if afresh:
                    network.kept.clear()
                network.t, network.forecast = trajectory.timesteps[step], forecasts[step]
            return cached(x, step)

        return answer


class _Cached:
    """A denoiser that answers at ``t`` of a walk in full, or from what it kept before."""

    def __init__(self, network, order: int):
        self._network, self._order = network, order
        self.kept: dict[float, Tensor] = {}  # by the sampler's timestep
        self.t, self.forecast = 0.0, False

    def __getattr__(self, name: str):
        return getattr(self._network, name)

    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        if self.forecast and self.kept:
            return self._network.reuse(extrapolate(self.kept, self.t), x, t, y)
        output, self.kept[self.t] = self._network.evaluate(x, t, y)
        if len(self.kept) > self._order + 1:
            del self.kept[max(self.kept)]  # the oldest: timesteps never increase
        return output


def extrapolate(values: Mapping[float, Tensor], t: float) -> Tensor:
    """The polynomial through ``values`` at their timesteps, at another ``t``.

    By Aitken-Neville's scheme: the straight line through two neighbours, then that of two such
    results, and so on. It is Newton's polynomial of divided differences, but made of ``lerp`` only,
    which rounds once for each line, also in half precision.

    Args:
        values: K tensors of one shape, by their timesteps.
    """
    times, lines = list(values), list(values.values())
    for width in range(1, len(times)):
        lines = [
            torch.lerp(*pair, (t - start) / (end - start))
            for pair, start, end in zip(
                itertools.pairwise(lines), times[:-width], times[width:], strict=True
            )
        ]
    return lines[0]


def forecast_of(name: str) -> str:
    """What the forecast of a denoiser's answer is called where a full one is called by its name."""
    return f"forecast of {name}"


def _places(evaluations: Sequence[tuple[str, ...]]) -> list[int]:
    """How many steps with the same denoisers directly precede each step."""
    return [place for _, group in itertools.groupby(evaluations) for place, _ in enumerate(group)]
