"""Diffusion maths on tensors: schedules, spacings, samplers, guidance, noise, training loss."""

import dataclasses
from collections.abc import Sequence

from models.errors import InputError
from samplers import check, dpm_solver, heun, spacing
from samplers.ddim import DDIM
from samplers.ddpm import DDPM
from samplers.dpm_solver import DPMSolver
from samplers.guidance import Guidance
from samplers.heun import Heun
from samplers.pndm import PNDM
from samplers.sampler import Sampler
from samplers.schedule import NoiseSchedule

__all__ = [
    "DDIM",
    "DDPM",
    "PNDM",
    "DPMSolver",
    "Guidance",
    "Heun",
    "NoiseSchedule",
    "Sampler",
    "create",
]


def _visits(name: str, steps: int, schedule: NoiseSchedule, **_) -> list[int]:
    return spacing.visits(name, steps, schedule)


# name -> (class, default spacing, what turns a spacing's name into timesteps)
_SAMPLERS = {
    "ddim": (DDIM, "trailing-inclusive", _visits),
    "ddpm": (DDPM, "trailing-inclusive", _visits),
    "pndm": (PNDM, "leading", _visits),
    "heun": (Heun, "karras", heun.spaced_times),
    "dpm_solver": (DPMSolver, "time-uniform", dpm_solver.spaced_times),
}


def create(
    name: str,
    steps: int,
    schedule: NoiseSchedule | str,
    spacing: str | Sequence[float] | None = None,
    **options,
):
    """A sampler on a schedule and a list of timesteps.

    Args:
        name: ``ddim`` (options ``eta``, ``set_alpha_to_one``), ``ddpm`` (``variance``),
            ``dpm_solver`` (``order``, ``lower_order_final``, ``algorithm``, ``method``,
            ``history``), ``pndm`` (``set_alpha_to_one``, ``history``) or ``heun``.
        steps: number of steps as the sampler's literature counts them: network evaluations
            (guided ones count once), but for ``pndm``, which has one more, and ``heun``, which has
            2 steps - 1. ``len(sampler.timesteps)`` is the number of evaluations.
        schedule: the denoisers' noise schedule, or its name.
        spacing: of the timesteps (see ``samplers.spacing``), or the timesteps themselves in any
            sequence, array or tensor; default: the paper's for DDIM and DDPM, the reference's for
            the others.

    Raises:
        InputError: for an unknown name or option, listing the known ones, or a bad value.
    """
    if name not in _SAMPLERS:
        raise InputError(f"unknown sampler {name!r}; known: {', '.join(_SAMPLERS)}")
    if isinstance(schedule, str):
        schedule = NoiseSchedule.create(schedule)
    constructor, default_spacing, place = _SAMPLERS[name]
    fields = dataclasses.fields(constructor)[2:]
    known = [field.name for field in fields]
    unknown = sorted(options.keys() - set(known))
    if unknown:
        raise InputError(
            f"sampler {name} has no option {', '.join(unknown)}; "
            f"known: {', '.join([*known, 'spacing'])}"
        )
    for field in fields:
        value = options.get(field.name, field.default)
        numeric = isinstance(field.default, float) and type(value) in (int, float)
        if not numeric and type(value) is not type(field.default):
            kind = type(field.default).__name__
            raise InputError(f"sampler.{field.name}={value!r} must be of type {kind}")
    named = spacing if isinstance(spacing, str) else default_spacing
    timesteps = place(named, steps, schedule, **options)
    if spacing is not None and not isinstance(spacing, str):
        listed = check.numbers("sampler.spacing", spacing)
        if len(listed) != len(timesteps):
            raise InputError(
                f"sampler.spacing lists {len(listed)} timesteps; sampler {name} with "
                f"sampler.steps={steps} needs {len(timesteps)}"
            )
        timesteps = listed
    return constructor(schedule, timesteps, **options)
