"""Diffusion maths on tensors: schedules, spacings, samplers, guidance, noise, training loss."""

import dataclasses

from samplers.ddim import DDIM
from samplers.ddpm import DDPM
from samplers.dpm_solver import DPMSolverPP
from samplers.guidance import Guidance
from samplers.schedule import NoiseSchedule
from samplers.spacing import time_uniform, trailing_inclusive

__all__ = ["DDIM", "DDPM", "DPMSolverPP", "Guidance", "NoiseSchedule", "create"]

_SAMPLERS = {
    "ddim": (DDIM, trailing_inclusive),
    "ddpm": (DDPM, trailing_inclusive),
    "dpm_solver": (DPMSolverPP, time_uniform),
}


def create(name: str, steps: int, schedule: NoiseSchedule | str, **options):
    """A sampler with its default spacing.

    Args:
        name: ``ddim`` (option ``eta``), ``ddpm`` (``variance``) or ``dpm_solver`` (``order``,
            ``lower_order_final``).
        steps: number of network evaluations per sample (guided evaluations count once).
        schedule: the denoisers' noise schedule, or its name.

    Raises:
        ValueError: for an unknown name or option, listing the known ones, or a bad value.
    """
    if name not in _SAMPLERS:
        raise ValueError(f"unknown sampler {name!r}; known: {', '.join(_SAMPLERS)}")
    if isinstance(schedule, str):
        schedule = NoiseSchedule.create(schedule)
    constructor, spacing = _SAMPLERS[name]
    known = list(constructor.__dataclass_fields__)[2:]
    unknown = sorted(options.keys() - set(known))
    if unknown:
        raise ValueError(
            f"sampler {name} has no option {', '.join(unknown)}; known: {', '.join(known)}"
        )
    for field in dataclasses.fields(constructor)[2:]:
        value = options.get(field.name, field.default)
        numeric = isinstance(field.default, float) and type(value) in (int, float)
        if not numeric and type(value) is not type(field.default):
            kind = type(field.default).__name__
            raise ValueError(f"sampler.{field.name}={value!r} must be of type {kind}")
    return constructor(schedule, spacing(steps, schedule.num_timesteps), **options)
