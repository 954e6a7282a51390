"""One denoiser of a stitched pipeline, and the caches that belong to it."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers.hooks import ModelHook
from diffusers.hooks.hooks import CacheContext
from diffusers.models.cache_utils import CacheMixin
from torch import Tensor, nn

from models.errors import InputError
from stitch.pipelines import caches
from stitch.pipelines.agreement import takes_guidance
from stitch.pipelines.deep import DeepCache
from stitch.pipelines.progress import Progress
from stitch.pipelines.tome import begin_tokens


class Member:
    """A denoiser under its name.

    Args:
        name, network: the denoiser.
        answer: what evaluates it: itself, or what the hook that stitches stands before.
        deep: the interval of its ``DeepCache``, if it has one.
        embedding: whether it is given the embedding of the guidance scale.
        predicts: diffusers' prediction type, if it may differ from the scheduler's.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        answer: Callable,
        deep: int | None = None,
        embedding: bool = True,
        predicts: str | None = None,
    ):
        self.name, self.network, self.predicts = name, network, predicts
        self._answer, self._interval = answer, deep
        self._withholds = not (embedding and takes_guidance(network))
        self._caches: list[tuple[nn.Module, ModelHook]] = []
        self._deep: DeepCache | None = None

    def prepare(self, own: ModelHook) -> None:
        """Before a trajectory: find the caches that diffusers has put on it.

        Args:
            own: the hook that stitches.

        Raises:
            InputError: see ``caches.caches_of``.
        """
        self._caches = caches.caches_of(self.name, self.network, own)

    def begin(self, sample: Tensor) -> None:
        """Before a stretch of steps: come to where the latents are, and forget what was cached.

        Args:
            sample: the latents of the call, in the precision of the pipeline's denoiser.
        """
        if self._answer is self.network:
            _move(self.network, sample.device, sample.dtype)
        caches.begin(self._caches)
        begin_tokens(self.network, sample)
        if self._interval is not None:
            self._deep = DeepCache(self.name, self.network, self._answer, self._interval)

    def __call__(
        self,
        args: tuple,
        kwargs: Mapping[str, Any],
        progress: Progress,
        context: CacheContext | None,
    ) -> Any:
        """The denoiser's answer.

        Args:
            args, kwargs: of the call.
            progress: where the call is.
            context: what the pipeline says of the call to caches, if it does.

        Raises:
            InputError: if the deep cache sees several calls at one step, which it cannot tell
                apart.
        """
        if self._withholds and "timestep_cond" in kwargs:
            kwargs = {**kwargs, "timestep_cond": None}
        with self._told(context):
            if self._deep is None:
                return self._answer(*args, **kwargs)
            if progress.again:
                raise InputError(
                    f"deep={self._interval}: this pipeline calls {self.name} more than once at a "
                    "step, which the cache cannot tell apart; leave out deep"
                )
            return self._deep(progress.place, *args, **kwargs)

    def _told(self, context: CacheContext | None) -> contextlib.AbstractContextManager:
        """Hands the context on to the caches; without one, as in U-Nets' pipelines, a fixed one."""
        if not self._caches:
            return contextlib.nullcontext()
        said = dataclasses.asdict(context) if context else {"name": "denoise"}
        return CacheMixin.cache_context(self.network, **said)


def _move(network: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Move a denoiser, unless offloading decides where it is."""
    first = next(network.parameters(), None)
    if first is None or (first.device == device and first.dtype == dtype):
        return
    offloaded = hasattr(network, "_hf_hook") or any(
        "group_offloading" in module._diffusers_hook.hooks for module in caches.hooked(network)
    )
    # The precision of a whole network: parts may be kept or stored in another.
    if not offloaded and (network.device != device or network.dtype != dtype):
        network.to(device=device, dtype=dtype)
