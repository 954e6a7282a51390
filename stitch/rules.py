"""Allocation rules, by the names that configs use.

A rule is a function from a ``Request`` to an allocation. ``rule`` registers it under its name,
which ``configs/allocation/NAME.yaml`` gives as ``rule``; the request holds the file's settings.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from models.errors import InputError
from stitch.allocation import Allocation


@dataclass(frozen=True)
class Request:
    """The input of an allocation rule.

    Attributes:
        settings: the config group ``allocation``.
        zoo: the denoisers' zoo, with ``name``, ``denoisers`` and ``default_denoisers``.
        sampler: the sampler of the steps, with ``timesteps`` and ``schedule``.
    """

    settings: Mapping[str, Any]
    zoo: Any
    sampler: Any

    @property
    def steps(self) -> int:
        return len(self.sampler.timesteps)

    @property
    def log_snr(self) -> list[float]:
        """log(alpha^2 / sigma^2) of every step."""
        return self.sampler.schedule.log_snr(self.sampler.timesteps)

    def fractions(self) -> dict[str, float]:
        """Denoiser -> share of the steps: ``fractions``, or ``small`` and the rest.

        Raises:
            InputError: if the numbers of denoisers and fractions differ.
        """
        values = self.settings["fractions"]
        if values is None:
            values = [self.settings["small"], 1 - self.settings["small"]]
        names = self.denoisers(len(values), f"allocation.fractions={list(values)}")
        return dict(zip(names, values, strict=True))

    def denoisers(self, count: int, setting: str) -> list[str]:
        """The ``count`` denoisers that ``setting`` needs: the named ones, or the zoo's defaults.

        Raises:
            InputError: if their number differs, or one is unknown.
        """
        known, usual = self.zoo.denoisers, self.zoo.default_denoisers
        names = self.settings["denoisers"]
        if names is None:
            names = usual if count == len(usual) else [usual[0], usual[-1]]
        unknown = [name for name in names if name not in known]
        if unknown:
            raise InputError(
                f"allocation.denoisers: zoo {self.zoo.name} has no {', '.join(unknown)}; "
                f"known: {self.zoo.known}"
            )
        if len(names) != count or len(set(names)) != len(names):
            raise InputError(
                f"{setting} needs {count} different denoisers, allocation.denoisers={list(names)}"
            )
        return list(names)


RULES: dict[str, Callable[[Request], Allocation]] = {}


def rule(function: Callable[[Request], Allocation]) -> Callable[[Request], Allocation]:
    """Register an allocation rule by the name of its function."""
    RULES[function.__name__] = function
    return function


def allocate(request: Request) -> Allocation:
    """The allocation by the rule that ``request.settings`` names.

    Raises:
        InputError: for an unknown rule, listing the known ones, or settings that do not fit.
    """
    name = request.settings["rule"]
    if name not in RULES:
        raise InputError(f"allocation.rule={name} is unknown; known: {', '.join(RULES)}")
    return RULES[name](request)


@rule
def fractions(request: Request) -> Allocation:
    return Allocation.from_fractions(request.fractions(), request.steps)


@rule
def interleave(request: Request) -> Allocation:
    return Allocation.interleave(request.fractions(), request.steps)


@rule
def large_to_small(request: Request) -> Allocation:
    return Allocation.large_to_small(request.fractions(), request.steps)


@rule
def threshold(request: Request) -> Allocation:
    timesteps, total = request.sampler.timesteps, request.sampler.schedule.num_timesteps
    strict = request.settings["strict"]
    return Allocation.from_threshold(request.fractions(), timesteps, total, strict)


@rule
def switch_snr(request: Request) -> Allocation:
    switches = request.settings["switches"]
    names = request.denoisers(len(switches) + 1, f"allocation.switches={list(switches)}")
    return Allocation.from_switch_snr(names, switches, request.log_snr)


@rule
def decreasing_probability(request: Request) -> Allocation:
    small, large = request.denoisers(2, "allocation.rule=decreasing_probability")
    return Allocation.decreasing_probability(small, large, request.steps, request.settings["seed"])


@rule
def runs(request: Request) -> Allocation:
    return Allocation.parse(request.settings["runs"])
