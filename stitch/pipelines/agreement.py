"""What the denoisers of one pipeline must have in common."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from models.errors import InputError
from stitch.allocation import Allocation
from stitch.pipelines.attach import attached

# The name of the pipeline's own denoiser, and of the hook on it.
LARGE = "large"
NAME = "stitch"
# Entries of the configs of diffusers' denoisers that decide what a pipeline gives and gets.
ENTRIES = (
    "in_channels",
    "out_channels",
    "cross_attention_dim",
    "encoder_hid_dim",
    "encoder_hid_dim_type",
    "addition_embed_type",
    "addition_time_embed_dim",
    "projection_class_embeddings_input_dim",
    "class_embed_type",
    "num_class_embeds",
    "num_embeds_ada_norm",
    "text_dim",
    "image_dim",
    "caption_channels",
    "joint_attention_dim",
    "pooled_projection_dim",
    "guidance_embeds",
)
# How an image prompt adapter marks the U-Net that it was loaded into.
ADAPTER = "ip_image_proj"


def check_agreement(large: nn.Module, others: Mapping[str, nn.Module], embedding: bool) -> None:
    """Raise InputError unless the others can stand where the pipeline's own denoiser does.

    Args:
        large: the pipeline's own.
        others: by name.
        embedding: whether they are given the embedding of the guidance scale.
    """
    wanted = inspect.signature(large.forward).parameters
    for name, other in others.items():
        if not isinstance(other, nn.Module):
            raise InputError(
                f"others: {name} is a {type(other).__name__}; give the denoiser itself, such as "
                "the unet or transformer of a pipeline"
            )
        if other is large:
            raise InputError(f"others: {name} is the pipeline's own denoiser, which is large")
        known = inspect.signature(other.forward).parameters
        missing = [key for key in wanted if key not in known]
        if missing and not any(entry.kind is entry.VAR_KEYWORD for entry in known.values()):
            raise InputError(
                f"others: {name} ({type(other).__name__}) takes no {', '.join(missing)}, which "
                f"large ({type(large).__name__}) does; stitch denoisers of one kind"
            )
        for entry in ENTRIES:
            theirs, ours = _entry(other, entry), _entry(large, entry)
            if theirs != ours and ADAPTER not in (theirs, ours):
                raise InputError(
                    f"others: {name} has {entry}={theirs} and large {entry}={ours}; they must agree"
                )
        theirs, ours = _entry(other, "time_cond_proj_dim"), _entry(large, "time_cond_proj_dim")
        if embedding and theirs not in (None, ours):
            raise InputError(
                f"others: {name} has time_cond_proj_dim={theirs} and large "
                f"time_cond_proj_dim={ours}; they must agree, or only large may have one: make "
                "the pipeline of the denoiser that has it, or set guidance_embedding=False"
            )


def takes_guidance(network: nn.Module) -> bool:
    """Whether a denoiser has weights for the embedding of the guidance scale."""
    return _entry(network, "time_cond_proj_dim") is not None


def check_features(
    name: str, network: nn.Module, large: nn.Module, arguments: Mapping[str, Any]
) -> None:
    """Raise InputError unless what a ControlNet or an adapter adds inside a U-Net fits it.

    diffusers would leave out what is too much.

    Args:
        arguments: of the call, by name.
    """
    residuals: Sequence[Tensor] | None = arguments.get("down_block_additional_residuals")
    if residuals is not None:
        expected = _skips(network)
        given = [residual.shape[1] for residual in residuals]
        if given != expected:
            raise InputError(
                f"the ControlNet gives {len(given)} residuals of channels {given} and {name} has "
                f"{len(expected)} skips of {expected}; use a ControlNet and denoisers of one layout"
            )
    if arguments.get("down_intrablock_additional_residuals") is not None:
        theirs, ours = _entry(network, "block_out_channels"), _entry(large, "block_out_channels")
        if theirs != ours:
            raise InputError(
                f"the adapter is for block_out_channels={ours} of large and {name} has "
                f"block_out_channels={theirs}; use denoisers of one layout"
            )


def check_boundary(
    pipe: Any, slot: str, allocation: Allocation, timesteps: Sequence[float]
) -> None:
    """Raise InputError where a pipeline of two experts would not ask this slot.

    Wan 2.2 asks ``transformer`` at timesteps from its ``boundary_ratio`` of the whole on, below it
    ``transformer_2``, which may be stitched as well.
    """
    ratio = getattr(pipe.config, "boundary_ratio", None)
    expert = {"transformer": "transformer_2", "transformer_2": "transformer"}.get(slot)
    if ratio is None or expert is None or attached(getattr(pipe, expert), NAME):
        return
    boundary = ratio * pipe.scheduler.config.num_train_timesteps
    for owner, t in zip(allocation.steps, timesteps, strict=True):
        if owner != LARGE and (t >= boundary) != (slot == "transformer"):
            raise InputError(
                f"shares gives {owner} timestep {t:g}, at which boundary_ratio={ratio} asks "
                f"{expert}; stitch slot={expert!r} too, or stitch a pipeline without boundary_ratio"
            )


def only_in(large: nn.Module, network: nn.Module) -> list[str]:
    """What has been loaded into one denoiser and not into another."""
    loaded = {
        "LoRA": lambda one: bool(getattr(one, "peft_config", None)),
        "IP-Adapter": lambda one: _entry(one, "encoder_hid_dim_type") == ADAPTER,
    }
    return [what for what, has in loaded.items() if has(large) and not has(network)]


def _skips(unet: nn.Module) -> list[int]:
    """The channels of the features that go from a U-Net's first half to its second."""
    channels = [unet.conv_in.out_channels]
    for block, width in zip(unet.down_blocks, unet.config.block_out_channels, strict=True):
        channels += [width] * (len(block.resnets) + len(block.downsamplers or ()))
    return channels


def _entry(network: nn.Module, entry: str) -> Any:
    """A config entry; one value for a list of equal ones; None if there is none."""
    value = getattr(getattr(network, "config", None), entry, None)
    if isinstance(value, list | tuple) and len(set(map(str, value))) == 1:
        return value[0]
    return value
