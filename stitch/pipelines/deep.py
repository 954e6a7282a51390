"""DeepCache for U-Nets of diffusers (Ma et al. 2023, arXiv 2312.00858).

Between full evaluations only the first convolution, the last layer of the last block and the output
are computed: branch 0 of the authors' package, whose results these are. The package needs a middle
block; here none is needed.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

from diffusers import UNet2DConditionModel
from diffusers.models.unets.unet_2d_blocks import CrossAttnUpBlock2D, UpBlock2D
from torch import Tensor, nn

from models.errors import InputError
from stitch.pipelines.attach import wrapped


class DeepCache:
    """A U-Net along one stretch of steps, on which its deep branch is held.

    Args:
        name: of the member, for messages.
        unet: see ``check``.
        answer: what evaluates it in full.
        interval: it is evaluated in full at the first step and then wherever the place of the
            timestep in the schedule is a multiple of this from there.
    """

    def __init__(self, name: str, unet: nn.Module, answer: Callable, interval: int):
        self._name, self._answer, self._interval = name, answer, interval
        block = unet.up_blocks[-1]
        layers = getattr(block, "attentions", block.resnets)
        self._source = layers[-2]
        self._shallow, self._tail = _shallow(unet, block)
        self._start: int | None = None
        self._batch: Sequence[int] = ()

    @staticmethod
    def check(setting: str, unet: nn.Module) -> None:
        """Raise InputError, naming the ``setting``, unless the deep branch can be held."""
        block = unet.up_blocks[-1] if isinstance(unet, UNet2DConditionModel) else None
        if type(block) not in (CrossAttnUpBlock2D, UpBlock2D) or block.upsamplers is not None:
            raise InputError(
                f"{setting}: {type(unet).__name__} has no deep branch that could be held; a "
                "UNet2DConditionModel that ends with a CrossAttnUpBlock2D or UpBlock2D has one"
            )
        if unet._compiled_call_impl or hasattr(unet.forward, "_torchdynamo_orig_callable"):
            raise InputError(
                f"{setting}: it is compiled, and nothing can be taken from inside; leave out deep "
                "or torch.compile"
            )
        if wrapped(block):
            raise InputError(
                f"{setting}: something else, such as group offloading by blocks, has wrapped its "
                "last block; remove that, or leave deep out"
            )

    def __call__(self, place: int, *args, **kwargs) -> Any:
        """The U-Net's answer at a place in the schedule; arguments as the U-Net's."""
        batch = args[0].shape
        self._start = place if self._start is None else self._start
        # Another batch, such as where guidance is cut off, does not fit to what is kept.
        if (place - self._start) % self._interval == 0 or batch != self._batch:
            self._batch = batch
            return self._evaluate(*args, **kwargs)
        if kwargs.get("mid_block_additional_residual") is not None:
            kwargs["mid_block_additional_residual"] = args[0].new_zeros(())
        return type(self._shallow).forward(self._shallow, *args, **kwargs)

    def _evaluate(self, *args, **kwargs) -> Any:
        self._tail.kept = None
        with self._source.register_forward_hook(self._keep):
            output = self._answer(*args, **kwargs)
        if self._tail.kept is None:
            raise InputError(
                f"deep={self._interval}: nothing was taken from inside {self._name}; leave out "
                "deep, or what else has been put around this denoiser"
            )
        return output

    def _keep(self, module: nn.Module, inputs: tuple, output: Tensor | tuple) -> None:
        self._tail.kept = output[0] if isinstance(output, tuple) else output


class _Tail(nn.Module):
    """The last layer of the last block, which goes on from what was kept of the one before."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.block = block
        self.resnets = block.resnets
        self.has_cross_attention = getattr(block, "has_cross_attention", False)
        self.kept: Tensor | None = None

    def forward(self, hidden_states: Tensor, **kwargs) -> Tensor:
        return self.block(hidden_states=self.kept, **kwargs)


def _shallow(unet: nn.Module, block: nn.Module) -> tuple[nn.Module, _Tail]:
    """A U-Net on the same weights, without the deep branch, and its only block."""
    last = _copy(block)
    for layers in ("resnets", "attentions"):
        if hasattr(block, layers):
            setattr(last, layers, getattr(block, layers)[-1:])
    tail = _Tail(last)
    shallow = _copy(unet)
    shallow.down_blocks, shallow.mid_block = nn.ModuleList(), None
    shallow.up_blocks = nn.ModuleList([tail])
    return shallow, tail


def _copy(module: nn.Module) -> nn.Module:
    """A module with the same children and weights, whose children can be replaced."""
    copied = copy.copy(module)
    vars(copied)["_modules"] = dict(vars(module)["_modules"])
    vars(copied).pop("forward", None)  # of a wrapper: it is bound to the original
    return copied
