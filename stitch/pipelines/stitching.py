"""Stitching in any pipeline of diffusers, in two lines."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from models.errors import InputError
from samplers import check
from stitch.allocation import Allocation
from stitch.pipelines.agreement import LARGE, NAME, check_agreement, takes_guidance
from stitch.pipelines.attach import attach, attached, detach
from stitch.pipelines.conversion import check_type
from stitch.pipelines.deep import DeepCache
from stitch.pipelines.hook import COMPILED, StitchHook
from stitch.pipelines.member import Member
from stitch.pipelines.shares import Shares, allocator, check_names
from stitch.pipelines.tome import check_tokens, leave_tokens, merge_tokens

SLOTS = ("unet", "transformer")


class PipelineStitch:
    """The handle of a stitched pipeline; in a ``with`` statement it removes the stitch at the end.

    Args:
        module: the pipeline's denoiser.
        hook: what is on it.
        merged: the denoisers that tomesd has patched.
    """

    def __init__(self, module: nn.Module, hook: StitchHook, merged: list[nn.Module]):
        self._module, self._hook, self._merged = module, hook, merged

    @property
    def allocation(self) -> Allocation | None:
        """The owner of each of the scheduler's timesteps in the last call; before one: None."""
        return self._hook.allocation

    def remove(self) -> None:
        """Leave the pipeline as it was before; again, does nothing."""
        for network in self._merged:
            leave_tokens(network)
        self._merged = []
        detach(self._module, self._hook, NAME)

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
    predicts: Mapping[str, str] | None = None,
) -> PipelineStitch:
    """Let other denoisers take part of the steps of a diffusers pipeline, from its next call on.

    The pipeline's own denoiser keeps its place and is called ``large``. The steps are the entries
    of the scheduler's ``timesteps`` in a call: with PNDM one more than were asked for, with Heun
    almost twice as many, and in image-to-image also those that are passed over.

    The others come to the device and the precision of the latents when they are needed first, and
    stay. Caches, these and those that diffusers has put on a denoiser, begin anew where
    a denoiser takes over and where a trajectory begins.

    Args:
        pipe: a diffusers pipeline with a ``scheduler``.
        others: name -> denoiser, in order from noise to image, before ``large``.
        shares: name -> share of the steps, in any order; or an allocation of exactly the steps; or
            a function from the timesteps to one.
        slot: the pipeline's denoiser; default: ``unet`` or ``transformer``.
        rule: how shares become steps: ``round`` (paper, sec. 3.2) or ``floor`` (the official
            text-to-image code).
        deep: every how many steps a U-Net is evaluated in full; in between its deep branch is held
            (see ``stitch.pipelines.deep``, also for schedulers that have timesteps twice). For all
            denoisers, or by name.
        tome: ratio of tokens that a U-Net's self-attention merges, up to 0.75 (see
            ``stitch.pipelines.tome``). For all denoisers, or by name.
        guidance_embedding: False withholds the embedding of the guidance scale from latent
            consistency models, as the official code does.
        predicts: name -> what a denoiser predicts (``epsilon``, ``v_prediction``, ``sample``),
            where that is not the scheduler's ``prediction_type``; it is converted.

    Raises:
        InputError: for what cannot be stitched. So does the pipeline's call, at its first step, for
            what only a call shows.
    """
    slot, module = _denoiser(pipe, slot)
    if not others or LARGE in others:
        raise InputError(
            f"others={list(others)} must name at least one denoiser, and none large, which is the "
            "pipeline's own"
        )
    check_agreement(module, others, guidance_embedding)
    networks = {**others, LARGE: module}
    if not guidance_embedding and not any(map(takes_guidance, networks.values())):
        raise InputError(
            "guidance_embedding=False: no denoiser has a time_cond_proj_dim; leave it out"
        )
    intervals, ratios = _by_name("deep", deep, networks), _by_name("tome", tome, networks)
    for name, interval in intervals.items():
        check.whole(f"deep: the interval of {name}", interval, least=1)
        DeepCache.check(f"deep={interval}: {name}", networks[name])
    for name, ratio in ratios.items():
        check_tokens(f"tome: the ratio of {name}", networks[name], ratio)
    predictions = _by_name("predicts", predicts, networks)
    for name, kind in predictions.items():
        check_type(f"predicts: {name}", kind)
    hook = StitchHook(pipe, slot, module, allocator(shares, list(networks), rule))
    for name, network in networks.items():
        answer = hook.answer_without if name == LARGE else network
        hook.members[name] = Member(
            name,
            network,
            answer,
            deep=intervals.get(name),
            embedding=guidance_embedding,
            predicts=predictions.get(name),
        )

    for name, ratio in ratios.items():
        merge_tokens(networks[name], ratio)
    attach(module, hook, NAME)
    return PipelineStitch(module, hook, [networks[name] for name in ratios])


def _denoiser(pipe: Any, slot: str | None) -> tuple[str, nn.Module]:
    """The name and the module of a pipeline's denoiser.

    Raises:
        InputError: if there is none, or it cannot be stitched.
    """
    kind = type(pipe).__name__
    known = [name for name, part in vars(pipe).items() if isinstance(part, nn.Module)]
    if slot is None:
        slot = next((name for name in SLOTS if name in known), None)
    if slot not in known or not hasattr(getattr(pipe, "scheduler", None), "set_timesteps"):
        raise InputError(
            f"slot={slot}: {kind} has no such denoiser, or no scheduler; give a diffusers pipeline "
            f"with a scheduler, and one of its modules as slot: {', '.join(known) or 'none'}"
        )
    module = getattr(pipe, slot)
    if module._compiled_call_impl is not None or hasattr(module, "_orig_mod"):
        raise InputError(COMPILED)
    if "timestep" not in inspect.signature(module.forward).parameters:
        raise InputError(
            f"slot={slot}: {type(module).__name__} of {kind} takes no timestep; name its denoiser"
        )
    if attached(module, NAME):
        raise InputError(
            f"slot={slot}: {kind} is stitched already; call remove() of the stitch before"
        )
    return slot, module


def _by_name(setting: str, values: Any, networks: Mapping[str, nn.Module]) -> dict[str, Any]:
    """Denoiser -> value, from such a mapping, or one value for all; None for none."""
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        return dict.fromkeys(networks, values)
    check_names(setting, values, networks)
    return dict(values)
