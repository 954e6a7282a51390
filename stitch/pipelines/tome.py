"""Token merging (Bolya & Hoffman 2023, arXiv 2303.17604) by their package tomesd."""

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from models.errors import InputError
from samplers import check


def check_tokens(setting: str, unet: nn.Module, ratio: float) -> None:
    """Raise InputError, naming the ``setting``, unless tomesd can merge a ratio of its tokens."""
    if not 0 < check.number(setting, ratio) <= 0.75:
        raise InputError(f"{setting}={ratio:g} must be above 0 and at most 0.75")
    if not _levels(unet):
        raise InputError(
            f"{setting}={ratio:g}: {type(unet).__name__} has no tokens that tomesd could merge; a "
            "UNet2DConditionModel with attention has"
        )
    if _info(unet):
        raise InputError(
            f"{setting}={ratio:g}: tomesd has patched this denoiser already; undo that by "
            "tomesd.remove_patch, or leave tome out"
        )
    try:
        import tomesd  # noqa: F401
    except ImportError:
        raise InputError(
            f"{setting}={ratio:g} needs tomesd: pip install -r requirements-pipelines.txt"
        ) from None


def merge_tokens(unet: nn.Module, ratio: float) -> None:
    """Let the self-attentions of a U-Net's finest level merge this ratio of their tokens.

    The finest level that has attention: the first of Stable Diffusion, the second of SDXL. Among an
    odd number of latents, such as one without guidance, tomesd chooses tokens in another way.
    """
    import tomesd

    tomesd.apply_patch(unet, ratio=ratio, max_downsample=2 ** _levels(unet)[0])


def leave_tokens(unet: nn.Module) -> None:
    """Undo ``merge_tokens``."""
    import tomesd

    tomesd.remove_patch(unet)
    for module in unet.modules():
        vars(module).pop("_tome_info", None)


def begin_tokens(unet: nn.Module, sample: Tensor) -> None:
    """Let the random choices of tomesd begin anew, also where somebody else has patched.

    tomesd goes on with a generator of its own, so that a second image would not be that of its
    seed.
    """
    if info := _info(unet):
        info["args"]["generator"] = torch.Generator(sample.device).manual_seed(0)


def _info(unet: nn.Module) -> dict[str, Any] | None:
    """What tomesd keeps at a network that it has patched."""
    info = getattr(unet, "_tome_info", None)
    return info if info and info["hooks"] else None


def _levels(unet: nn.Module) -> list[int]:
    """The levels that have attention, the finest first."""
    blocks = unet.down_blocks if isinstance(unet, UNet2DConditionModel) else []
    return [level for level, block in enumerate(blocks) if hasattr(block, "attentions")]
