"""Stitching in any pipeline of diffusers, in two lines."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from diffusers.hooks import HookRegistry
from torch import nn

from models.errors import InputError
from stitch.allocation import Allocation, check_fractions
from stitch.pipelines.hook import StitchHook
from stitch.pipelines.member import Member

LARGE = "large"
SLOTS = ("unet", "transformer")
RULES = {"round": round, "floor": math.floor}
_HOOK = "stitch"

Shares = Mapping[str, float] | Allocation | Callable[[Sequence[float]], Allocation]


class PipelineStitch:
    """The handle of a stitched pipeline; as a context manager, it removes the stitch at the end."""

    def __init__(self, module: nn.Module, hook: StitchHook):
        self._module, self._hook = module, hook

    @property
    def allocation(self) -> Allocation | None:
        """Which denoiser owned which of the scheduler's timesteps in the last call of the pipeline.

        Before the first call: None.
        """
        return self._hook.allocation

    def remove(self) -> None:
        """Leave the pipeline as it was before."""
        HookRegistry.check_if_exists_or_initialize(self._module).remove_hook(_HOOK, recurse=False)

    def __enter__(self) -> "PipelineStitch":
        return self

    def __exit__(self, *_) -> None:
        self.remove()


def stitch_pipeline(
    pipe: Any,
    others: Mapping[str, nn.Module],
    shares: Shares,
    slot: str | None = None,
    rule: str = "round",
    *,
    deep: int | Mapping[str, int] | None = None,
    tome: float | Mapping[str, float] | None = None,
    guidance_embedding: bool = True,
) -> PipelineStitch:
    """Let other denoisers take part of the steps of a diffusers pipeline, from its next call on.

    The pipeline's own denoiser keeps its place and is called ``large``. The steps are the entries
    of the scheduler's ``timesteps`` in a call: with PNDM one more than were asked for, with Heun
    almost twice as many, and in image-to-image also those that are passed over.

    Args:
        pipe: a diffusers pipeline with a ``scheduler``.
        others: name -> denoiser, in order from noise to image, before ``large``.
        shares: name -> share of the steps, in any order; or an allocation of exactly the steps; or
            a function from the timesteps to one.
        slot: the pipeline's denoiser; default: ``unet`` or ``transformer``.
        rule: how shares become steps: ``round`` (paper, sec. 3.2) or ``floor`` (the official
            text-to-image code).
        deep: every how many steps a U-Net is evaluated in full; in between its deep branch is held
            (DeepCache, Ma et al. 2023, arXiv 2312.00858). For all members, or by name.
        tome: ratio of tokens that a U-Net's self-attention merges (ToMe, Bolya & Hoffman 2023,
            arXiv 2303.17604). For all members, or by name.
        guidance_embedding: False withholds the embedding of the guidance scale from latent
            consistency models, as the official code does.

    Raises:
        InputError: for what cannot be stitched.
    """
    slot = slot or next((name for name in SLOTS if getattr(pipe, name, None) is not None), None)
    module = getattr(pipe, slot)
    members = {name: Member(name, other) for name, other in others.items()}
    members[LARGE] = Member(LARGE, module)
    hook = StitchHook(pipe, members, _allocator(shares, list(members), rule))
    HookRegistry.check_if_exists_or_initialize(module).register_hook(hook, _HOOK)
    return PipelineStitch(module, hook)


def _allocator(
    shares: Shares, names: list[str], rule: str
) -> Callable[[Sequence[float]], Allocation]:
    """The function from the timesteps of a trajectory to the allocation."""
    if rule not in RULES:
        raise InputError(f"rule={rule!r} is unknown; known: {', '.join(RULES)}")
    if isinstance(shares, Mapping):
        check_names("shares", shares, names)
        check_fractions(shares, "shares")
        ordered = {name: shares[name] for name in names if name in shares}
        return lambda timesteps: Allocation.from_fractions(ordered, len(timesteps), RULES[rule])
    if isinstance(shares, Allocation):
        check_names("shares", shares.denoisers, names)
        return lambda timesteps: shares
    return shares


def check_names(setting, chosen, names):
    unknown = [name for name in chosen if name not in names]
    if unknown:
        raise InputError(
            f"{setting} names {', '.join(unknown)}; the pipeline's denoisers are {', '.join(names)}"
        )
