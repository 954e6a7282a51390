"""bf16 on CPUs: what they multiply it with, and how those do it that have no instruction for it.

On a CPU without AVX512, torch multiplies bf16 in a plain loop, a hundred times as slowly as
float32. There, the products of a zoo's networks are of float32 copies of bf16 values, and their
results are rounded to bf16. Native products sum in float32 and round the result as well; the two
differ by the order of sums, and inside of attention, which rounds less when it is emulated.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Decided by the CPU's features and never by a timing: all ranks and restarts on one kind of machine
# must agree to the bit. Whether it multiplies tiles of bf16:
AMX = torch.cpu._is_amx_tile_supported()
# Whether oneDNN multiplies bf16, with AVX512 at least.
ONEDNN = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def emulated(tensor: Tensor) -> bool:
    """Whether products of this tensor are made in float32."""
    return tensor.device.type == "cpu" and tensor.dtype == torch.bfloat16 and not ONEDNN


def emulate_products(network: nn.Module) -> None:
    """Let the linear and convolutional layers multiply in float32, in place, if they must.

    Weights stay in bf16. torch.compile makes their float32 copies once and fuses the rounding, so
    that a compiled network is as fast as in float32.
    """
    for layer in network.modules():
        if type(layer) in _EMULATED and emulated(layer.weight):
            layer.__class__ = _EMULATED[type(layer)]


def fused_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """torch's softmax(q k^T / sqrt(d)) v of (B, heads, N, d) queries, keys and values."""
    if emulated(q):
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float()).bfloat16()
    return F.scaled_dot_product_attention(q, k, v)


class _Linear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.float(), self.weight.float(), _float(self.bias)).bfloat16()


class _Conv2d(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x.float(), self.weight.float(), _float(self.bias)).bfloat16()


_EMULATED = {nn.Linear: _Linear, nn.Conv2d: _Conv2d}


def _float(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.float()
