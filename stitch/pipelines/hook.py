"""The hook that stands before the denoiser of a stitched pipeline."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from diffusers.hooks import ModelHook
from torch import nn

from models.errors import InputError
from stitch.allocation import Allocation
from stitch.pipelines.member import Member
from stitch.pipelines.progress import Progress


class StitchHook(ModelHook):
    def __init__(
        self,
        pipe: Any,
        members: dict[str, Member],
        allocate: Callable[[Sequence[float]], Allocation],
    ):
        super().__init__()
        self._members, self._allocate = members, allocate
        self._progress = Progress(pipe)
        self.allocation: Allocation | None = None
        module = members["large"].network
        self._place = list(inspect.signature(module.forward).parameters).index("timestep")

    def new_forward(self, module: nn.Module, *args, **kwargs):
        timestep = kwargs["timestep"] if "timestep" in kwargs else args[self._place]
        if self._progress.follow(timestep):
            self.allocation = self._allocate(self._progress.timesteps)
            if len(self.allocation) != len(self._progress.timesteps):
                raise InputError("x")
        name = self.allocation.steps[self._progress.step]
        network = self._members[name].network
        if network is module:
            return self.fn_ref.original_forward(*args, **kwargs)
        return network(*args, **kwargs)
