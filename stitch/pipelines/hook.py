"""The hook that stands before the denoiser of a stitched pipeline."""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers.hooks import ModelHook
from diffusers.hooks.hooks import BaseState, CacheContext, StateManager
from torch import nn

from models.errors import InputError
from stitch.allocation import Allocation
from stitch.pipelines.agreement import check_boundary, check_features, only_in
from stitch.pipelines.conversion import converted
from stitch.pipelines.member import Member
from stitch.pipelines.progress import Progress

COMPILED = (
    "the pipeline's denoiser is compiled as a whole, the stitch with it; compile its forward "
    "instead, before stitch_pipeline: unet.forward = torch.compile(unet.forward)"
)

log = logging.getLogger("stitch")


class _Context(StateManager):
    """Where diffusers leaves what a pipeline says of a call to caches."""

    def __init__(self):
        super().__init__(BaseState)

    @property
    def said(self) -> CacheContext | None:
        return self._context


class StitchHook(ModelHook):
    """Answers for the module that it is on, with the denoiser that owns the step.

    Args:
        pipe: the pipeline, whose ``scheduler`` says where a call is.
        slot, module: the pipeline's denoiser.
        allocate: from the timesteps of a trajectory to its allocation, checked.

    Attributes:
        members: by name; to be filled in before the first call.
        allocation: of the trajectory in hand or, at its end, the last.
    """

    _is_stateful = True  # so that diffusers leaves contexts here

    def __init__(
        self,
        pipe: Any,
        slot: str,
        module: nn.Module,
        allocate: Callable[[Sequence[float]], Allocation],
    ):
        super().__init__()
        self.members: dict[str, Member] = {}
        self.allocation: Allocation | None = None
        self._pipe, self._slot, self._module, self._allocate = pipe, slot, module, allocate
        self._warned = False
        self._progress = Progress(pipe)
        self._context = _Context()
        self._owner: Member | None = None
        names = list(inspect.signature(module.forward).parameters)
        self._sample, self._timestep = (names[0], 0), ("timestep", names.index("timestep"))

    def answer_without(self, *args, **kwargs) -> Any:
        """What the module would answer without this hook."""
        return self.fn_ref.original_forward(*args, **kwargs)

    @torch.compiler.disable
    def new_forward(self, module: nn.Module, *args, **kwargs) -> Any:
        """Called by diffusers in place of the module's ``forward``."""
        if module._compiled_call_impl is not None:
            raise InputError(COMPILED)
        sample, timestep = (
            kwargs[name] if name in kwargs else args[place]
            for name, place in (self._sample, self._timestep)
        )
        begins = self._progress.follow(timestep)
        if begins:
            self._begin(kwargs)
        owner = self.members[self.allocation.steps[self._progress.step]]
        if begins or owner is not self._owner:
            owner.begin(sample)
            self._owner = owner
        output = owner(args, kwargs, self._progress, self._context.said)
        if owner.predicts is None:
            return output
        t = self._progress.timesteps[self._progress.step]
        return converted(output, sample, t, owner.predicts, self._pipe.scheduler)

    def reset_state(self, module: nn.Module) -> nn.Module:
        """Called by diffusers at the end of a pipeline's call."""
        self._progress.forget()
        return module

    def _begin(self, kwargs: Mapping[str, Any]) -> None:
        """Before a trajectory: its allocation, and whether its denoisers can do what it asks."""
        timesteps = self._progress.timesteps
        allocation = self._allocate(timesteps)
        check_boundary(self._pipe, self._slot, allocation, timesteps)
        for name in allocation.denoisers:
            member = self.members[name]
            member.prepare(self)
            check_features(name, member.network, self._module, kwargs)
        self._warn(allocation)
        self.allocation = allocation

    def _warn(self, allocation: Allocation) -> None:
        """Say, once, what has been loaded into the pipeline and misses other denoisers."""
        for name in allocation.denoisers:
            missing = only_in(self._module, self.members[name].network)
            if missing and not self._warned:
                log.warning(
                    "%s is in large only: %s works without it; load it into that denoiser too "
                    "where it is meant for it",
                    " and ".join(missing),
                    name,
                )
                self._warned = True
