"""Parts of a trajectory: what a denoiser is fine-tuned on, and whether it is used there.

Fine-tuning a denoiser on its own part of the trajectory is the paper's sec. A.12.
"""

import logging
from collections.abc import Mapping, Sequence

from models.errors import InputError
from samplers.schedule import NoiseSchedule
from stitch.alignment import views
from stitch.allocation import Allocation

log = logging.getLogger("sample")

PREFIX = "allocation:"


def intervals(
    setting: str | Sequence[int], names: Sequence[str] | None, num_timesteps: int
) -> dict[str, tuple[int, int]]:
    """Denoiser -> the timesteps [low, high) that ``train.interval`` gives it.

    Args:
        setting: (low, high), the same for all ``names``, or ``allocation:DiT-S*50+DiT-XL*50``,
            whose steps are equal parts of [0, T) whatever the sampler.
        names: the denoisers; None: all of the allocation.
        num_timesteps: T of the noise schedule.

    Raises:
        InputError: if the interval has no timestep or leaves [0, T), or an allocation does not give
            a denoiser one stretch of it.
    """
    if not isinstance(setting, str):
        low, high = setting
        if not 0 <= low < high <= num_timesteps:
            raise InputError(
                f"train.interval=[{low}, {high}] must be timesteps with 0 <= low < high <= "
                f"{num_timesteps}"
            )
        if not names:
            raise InputError(
                f"train.interval=[{low}, {high}] needs a denoiser: add train=ZOO/NAME, or "
                "train.denoisers=[NAME]"
            )
        return dict.fromkeys(names, (low, high))
    if not setting.startswith(PREFIX):
        raise InputError(
            f"train.interval={setting} must be [low, high] or {PREFIX}NAME*STEPS+NAME*STEPS"
        )
    allocation = Allocation.parse(setting.removeprefix(PREFIX))
    count = len(allocation)
    if count > num_timesteps:
        raise InputError(
            f"train.interval={setting} has {count} steps, more than the {num_timesteps} timesteps"
        )
    # Step i covers the timesteps from its own down to the next step's, exclusive.
    timesteps = [round(num_timesteps * (1 - i / count)) - 1 for i in range(count)]
    try:
        return {
            name: allocation.interval(name, timesteps, num_timesteps)
            for name in names or allocation.denoisers
        }
    except InputError as error:
        raise InputError(f"train.interval={setting}: {error}") from error


def warn_outside(
    specs: Mapping,
    evaluations: Sequence[tuple[str, ...]],
    schedule: NoiseSchedule,
    timesteps: Sequence[float],
    aligned: bool = True,
) -> None:
    """Warn of every denoiser that is called at timesteps it was not fine-tuned on.

    Args:
        specs: name -> spec, with its ``interval``.
        evaluations: the denoisers called at every step; see ``stitch.evaluations``.
        schedule, timesteps: the sampler's.
        aligned: see ``stitch.alignment.views``.
    """
    for name in dict.fromkeys(name for step in evaluations for name in step):
        if specs[name].interval is None:
            continue
        low, high = specs[name].interval
        seen = views(specs[name], schedule, timesteps, aligned)
        times = [
            view.t - specs[name].timestep_offset
            for view, step in zip(seen, evaluations, strict=True)
            if name in step
        ]
        strange = [t for t in times if not low <= t < high]
        if strange:
            log.warning(
                "%s was fine-tuned on the timesteps %d to %d only; %d of its %d steps are outside, "
                "at %g to %g",
                name, low, high - 1, len(strange), len(times), max(strange), min(strange),
            )  # fmt: skip
