"""Diffusion maths on tensors: schedules, spacings, samplers, guidance, noise, training loss."""

import dataclasses
from collections.abc import Sequence

from models.errors import InputError
from samplers import check
from samplers.ddim import DDIM
from samplers.ddpm import DDPM
from samplers.dpm_solver import DPMSolver
from samplers.guidance import Guidance
from samplers.heun import Heun
from samplers.pndm import PNDM
from samplers.sampler import Sampler
from samplers.schedule import NoiseSchedule
from samplers.unipc import UniPC

__all__ = [
    "DDIM",
    "DDPM",
    "PNDM",
    "DPMSolver",
    "Guidance",
    "Heun",
    "NoiseSchedule",
    "Sampler",
    "UniPC",
    "create",
    "timesteps_of",
]


# name -> class: a ``Sampler`` that is a dataclass of the schedule, the timesteps and its options,
# has a ``default_spacing``, and turns a spacing's name into timesteps with ``place``.
_SAMPLERS = {
    "ddim": DDIM,
    "ddpm": DDPM,
    "pndm": PNDM,
    "heun": Heun,
    "dpm_solver": DPMSolver,
    "unipc": UniPC,
}


def create(
    name: str,
    steps: int,
    schedule: NoiseSchedule | str,
    spacing: str | Sequence[float] | None = None,
    **options,
) -> Sampler:
    """A sampler on a schedule and a list of timesteps.

    Args:
        name: ``ddim``, ``dpm_solver`` or another of the registry above.
        steps: number of steps as the sampler's literature counts them. ``len(sampler.timesteps)``
            is the number of network evaluations, where guided ones count once: 1 more for ``pndm``,
            2 steps - 1 for ``heun``, ``steps`` for the others.
        schedule: the denoisers' noise schedule, or its name.
        spacing: of the timesteps (see ``samplers.spacing``), or the timesteps themselves in any
            sequence, array or tensor; default: the sampler's ``default_spacing``.
        options: the attributes of the sampler's class behind its schedule and timesteps.

    Raises:
        InputError: for an unknown name or option, listing the known ones, or a bad value.
    """
    if name not in _SAMPLERS:
        raise InputError(f"unknown sampler {name!r}; known: {', '.join(_SAMPLERS)}")
    if isinstance(schedule, str):
        schedule = NoiseSchedule.create(schedule)
    constructor = _SAMPLERS[name]
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
    named = spacing if isinstance(spacing, str) else constructor.default_spacing
    timesteps = constructor.place(named, steps, schedule, **options)
    if spacing is not None and not isinstance(spacing, str):
        listed = check.numbers("sampler.spacing", spacing)
        if len(listed) != len(timesteps):
            raise InputError(
                f"sampler.spacing lists {len(listed)} timesteps; sampler {name} with "
                f"sampler.steps={steps} needs {len(timesteps)}"
            )
        timesteps = listed
    return constructor(schedule, timesteps, **options)


def timesteps_of(sampler: Sampler) -> list[float]:
    """The timesteps that ``spacing`` would list: with them, ``create`` gives the same sampler."""
    return list(getattr(sampler, dataclasses.fields(sampler)[1].name))
