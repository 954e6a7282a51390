"""Which of a scheduler's timesteps a call of the denoiser belongs to."""

from typing import Any

from torch import Tensor

from models.errors import InputError


class Progress:
    """Follows the calls that a pipeline makes of its denoiser.

    A trajectory begins where the scheduler has new timesteps, which every call of a pipeline gives
    it, or where a call goes back to an earlier one.

    Attributes:
        timesteps: those of the trajectory, from noise to image; some schedulers have one twice.
        step: the place in them of the last call.
        again: whether the call before, in this trajectory, was at the same step.
    """

    def __init__(self, pipe: Any):
        self._pipe = pipe
        self._seen: Tensor | None = None
        self._counter: int | None = None
        self.timesteps: list[float] = []
        self.step = 0
        self.again = False

    def follow(self, timestep: Tensor | float) -> bool:
        """Take note of a call at ``timestep``, one or equal ones; whether a trajectory begins.

        Raises:
            InputError: if the scheduler has no such timestep (left).
        """
        scheduler = self._pipe.scheduler
        begins = scheduler.timesteps is not self._seen
        if begins:
            self._seen, self.timesteps = scheduler.timesteps, scheduler.timesteps.tolist()
            self.step = 0
        step = _place_of_view(timestep, scheduler.timesteps)
        if step is None:
            step = _count(scheduler)
        if step is None:
            step = self._search(timestep, begins)
        if step >= len(self.timesteps):
            raise InputError(
                f"the scheduler has no timestep left after its {len(self.timesteps)}; call the "
                "pipeline again or the scheduler's set_timesteps"
            )
        begins = begins or step < self.step
        self.again = step == self.step and not begins
        self.step, self._counter = step, getattr(scheduler, "counter", None)
        return begins

    @property
    def place(self) -> int:
        """The first place that has the timestep of the last call."""
        return self.timesteps.index(self.timesteps[self.step])

    def forget(self) -> None:
        """Let a trajectory begin at the next call."""
        self._seen = None

    def _search(self, timestep: Tensor | float, begins: bool) -> int:
        """The place by value: of equal ones the one in hand, after PNDM's step the next."""
        value = float(timestep.max() if isinstance(timestep, Tensor) else timestep)
        places = [place for place, t in enumerate(self.timesteps) if t == value]
        if not places and begins and value <= 1 and hasattr(self._pipe.scheduler, "step_index"):
            return 0  # rescaled, and the scheduler counts from the first step on
        if not places:
            raise InputError(
                f"timestep={value:g} is none of the scheduler's {len(self.timesteps)}, "
                f"{self.timesteps[0]:g} to {self.timesteps[-1]:g}; call the scheduler's "
                "set_timesteps, or the denoiser with one of its timesteps"
            )
        stepped = getattr(self._pipe.scheduler, "counter", self._counter) != self._counter
        return next((place for place in places if place >= self.step + stepped), places[0])


def _place_of_view(timestep: Tensor | float, timesteps: Tensor) -> int | None:
    """The place of an entry that still is a view of ``timesteps``, as in most pipelines.

    It is exact where a timestep is there twice, and waits for no GPU.
    """
    if not isinstance(timestep, Tensor) or (timestep.numel() > 1 and any(timestep.stride())):
        return None
    if timestep.untyped_storage().data_ptr() != timesteps.untyped_storage().data_ptr():
        return None
    return (timestep.storage_offset() - timesteps.storage_offset()) // timesteps.stride(0)


def _count(scheduler: Any) -> int | None:
    """The place by a scheduler that counts: for pipelines that rescale or round timesteps."""
    count = getattr(scheduler, "step_index", None)
    return getattr(scheduler, "begin_index", None) if count is None else count
