"""Parts that the transformers share, with the state-dict keys of timm, as in published weights.

Shape suffixes: B batch, C channels, H W size, N tokens, D width.
"""

import torch
from torch import Tensor, nn

from models import bf16


class Attention(nn.Module):
    """Multi-head self-attention of tokens; queries, keys and values from one projection."""

    def __init__(self, width: int, num_heads: int, qkv_bias: bool):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)

    def forward(self, x_BND: Tensor) -> Tensor:
        qkv = self.qkv(x_BND).unflatten(-1, (3, self.num_heads, -1))  # (B, N, 3, heads, head width)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear layers with a GELU (``tanh`` approximation or exact: ``none``) between them."""

    def __init__(self, width: int, hidden: int, approximate: str = "none"):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU(approximate=approximate)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x_BND: Tensor) -> Tensor:
        return self.fc2(linear_gelu(self.fc1, self.act, x_BND))


class PatchEmbed(nn.Module):
    """Every square of ``patch_size`` latent values becomes a token, row by row."""

    def __init__(self, patch_size: int, channels: int, width: int):
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch_size, stride=patch_size)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        # Strides persist through all residual sums: every layer norm would copy transposed tokens.
        return self.proj(x_BCHW).flatten(2).transpose(1, 2).contiguous()


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v of (B, heads, N, d) queries, keys and values.

    torch's fused attention, except for half precision on some CPUs. Without AMX it runs at a
    quarter of the rate of a batched product, which is faster although it stores the scores; with
    AMX, fused attention is faster by 10 to 35 %. Its gradient is slow on both: it takes 42 % of a
    training step of imagenette64's DiT-XL, while products and softmax take 10 %, forward pass
    included.
    """
    half_on_cpu = q.device.type == "cpu" and q.dtype.itemsize == 2
    if not half_on_cpu or bf16.emulated(q) or (bf16.AMX and not torch.is_grad_enabled()):
        return bf16.fused_attention(q, k, v)
    scale = q.shape[-1] ** -0.5
    q_MND, k_MND, v_MND = (heads.flatten(0, 1) for heads in (q, k, v))
    # alpha scales inside the product; the first argument is not read.
    unread = q.new_empty(1, 1, 1)
    scores_MNN = torch.baddbmm(unread, q_MND, k_MND.transpose(1, 2), beta=0, alpha=scale)
    return (scores_MNN.softmax(-1) @ v_MND).view(q.shape)


def linear_gelu(linear: nn.Module, gelu: nn.GELU, x: Tensor) -> Tensor:
    """``gelu(linear(x))``, fused into one oneDNN product in bf16 on CPUs, as in compiled networks.

    torch's own tanh-GELU of bf16 takes three times as long as the product before it.
    """
    fusable = (
        bf16.ONEDNN
        and isinstance(linear, nn.Linear)
        and x.device.type == "cpu"
        and x.dtype == linear.weight.dtype == torch.bfloat16
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
    )
    if not fusable:
        return gelu(linear(x))
    return torch.ops.mkldnn._linear_pointwise(
        x, linear.weight, linear.bias, "gelu", [], gelu.approximate
    )
