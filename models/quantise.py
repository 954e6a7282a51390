"""Transformers that multiply in eight bits: faster where the hardware has it, for a little error.

Weights are scaled per output channel, activations per token and call, both symmetrically (dynamic
quantisation). Only the products of the attention projections and the MLPs are quantised; everything
else, the conditioning included, stays in the network's precision.

torchao is not used: where it is installed, every import of diffusers is slower, and the two are
incompatible.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.errors import InputError
from models.transformer import Attention, Mlp

_TYPES = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}
QUANTISATIONS = tuple(_TYPES)
_MULTIPLE = 16  # sizes that a GPU multiplies in fp8 are multiples of it


def quantise(network: nn.Module, quantisation: str) -> None:
    """Replace the large linear layers of a transformer, in place.

    It pays off only in compiled networks: uncompiled, scaling costs what the products save.

    Args:
        network: a DiT or U-ViT, on its device.
        quantisation: ``int8`` or ``fp8`` (e4m3; GPUs of CUDA capability 8.9 and later).

    Raises:
        InputError: for an unknown quantisation, for fp8 on a device that cannot multiply it, and
            for a network without such layers.
    """
    if quantisation not in QUANTISATIONS:
        raise InputError(
            f"quantisation={quantisation} is unknown; known: {', '.join(QUANTISATIONS)}, or null"
        )
    device = next(network.parameters()).device
    if quantisation == "fp8" and not (
        device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)
    ):
        raise InputError(
            "quantisation=fp8 needs a GPU of CUDA capability 8.9 (Ada, Hopper); use int8 or null"
        )
    parts = [module for module in network.modules() if isinstance(module, Attention | Mlp)]
    if not parts:
        raise InputError(
            f"quantisation={quantisation} is for transformers, {type(network).__name__} is not "
            "one; use quantisation=null"
        )
    multiple = 1 if device.type == "cpu" else _MULTIPLE
    for part in parts:
        for name, layer in list(part.named_children()):
            if isinstance(layer, nn.Linear):
                setattr(part, name, EightBitLinear(layer, _TYPES[quantisation], multiple))


class EightBitLinear(nn.Module):
    """A linear layer that multiplies int8 values (summed in int32) or fp8 values.

    Args:
        layer: the layer it replaces.
        dtype: of the values, ``torch.int8`` or ``torch.float8_e4m3fn``.
        multiple: what both sizes are filled up to a multiple of, with zeros. That changes neither
            scales nor sums.
    """

    def __init__(self, layer: nn.Linear, dtype: torch.dtype, multiple: int = 1):
        super().__init__()
        self.dtype, self.bias = dtype, layer.bias
        self.outputs, inputs = layer.weight.shape
        self.filled = -inputs % multiple
        filled_OI = F.pad(layer.weight, (0, self.filled, 0, -self.outputs % multiple))
        weight_OI, scale_O1 = scaled(filled_OI, dtype)
        self.register_buffer("weight", weight_OI)
        self.register_buffer("scale", scale_O1.T.contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O), in the type of ``x``."""
        x_MI = x.flatten(0, -2)
        if self.filled:
            x_MI = F.pad(x_MI, (0, self.filled))
        x_MI, x_scale_M1 = scaled(x_MI, self.dtype)
        if self.dtype == torch.int8:
            y_MO = torch._int_mm(x_MI, self.weight.T) * (x_scale_M1 * self.scale)
        else:
            y_MO = torch._scaled_mm(
                x_MI, self.weight.T, x_scale_M1, self.scale, out_dtype=torch.bfloat16
            )
        y = y_MO[:, : self.outputs].unflatten(0, x.shape[:-1])
        return (y if self.bias is None else y + self.bias).to(x.dtype)


def scaled(x_RI: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rows (R, I) in eight bits, and their float32 scales (R, 1): x is about scale * values."""
    whole = dtype == torch.int8
    largest = 127 if whole else torch.finfo(dtype).max
    x_RI = x_RI.float()
    scale_R1 = x_RI.abs().amax(1, keepdim=True).clamp(min=1e-12) / largest
    values_RI = x_RI / scale_R1
    return (values_RI.round() if whole else values_RI).to(dtype), scale_R1
