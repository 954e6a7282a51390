"""Layers of the U-Net of latent diffusion, with the state-dict keys of CompVis' checkpoints.

Shape suffixes: B batch, C channels, H W size, N = H W tokens, D width, K context tokens.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.bf16 import fused_attention


class ResBlock(nn.Module):
    """Two convolutions; the time embedding is added between them."""

    def __init__(self, channels: int, time_width: int, out_channels: int, norm_groups: int):
        super().__init__()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(norm_groups, channels),
            nn.SiLU(),
            nn.Conv2d(channels, out_channels, 3, padding=1),
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time_width, out_channels))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(norm_groups, out_channels),
            nn.SiLU(),
            nn.Identity(),  # dropout, which published models do not use
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )
        same = channels == out_channels
        self.skip_connection = nn.Identity() if same else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x_BCHW: Tensor, time_BD: Tensor) -> Tensor:
        h_BCHW = self.in_layers(x_BCHW) + self.emb_layers(time_BD)[:, :, None, None]
        return self.skip_connection(x_BCHW) + self.out_layers(h_BCHW)


class Attention(nn.Module):
    """Multi-head attention of tokens to a context, or to themselves."""

    def __init__(self, width: int, context_width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context_width, width, bias=False)
        self.to_v = nn.Linear(context_width, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width))

    def forward(self, x_BND: Tensor, context_BKD: Tensor) -> Tensor:
        def heads(tokens: Tensor) -> Tensor:  # (B, N, D) -> (B, heads, N, D / heads)
            return tokens.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

        q = heads(self.to_q(x_BND))
        k, v = heads(self.to_k(context_BKD)), heads(self.to_v(context_BKD))
        if context_BKD.shape[1] == 1:  # a class: the values are broadcast, not multiplied
            scores = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
            mixed = scores.softmax(dim=-1) * v
        else:
            mixed = fused_attention(q, k, v)
        return self.to_out(mixed.transpose(1, 2).flatten(2))


class GEGLU(nn.Module):
    """Gated linear unit: value half times the (exact) GELU of the gate half."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.proj = nn.Linear(width, 2 * hidden)

    def forward(self, x_BND: Tensor) -> Tensor:
        value, gate = self.proj(x_BND).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """The MLP of a transformer block, four times as wide inside."""

    def __init__(self, width: int):
        super().__init__()
        self.net = nn.Sequential(
            GEGLU(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width)
        )

    def forward(self, x_BND: Tensor) -> Tensor:
        return self.net(x_BND)


class TransformerBlock(nn.Module):
    """Self-attention, attention to the context, MLP; each pre-norm and residual."""

    def __init__(self, width: int, context_width: int, num_heads: int):
        super().__init__()
        self.attn1 = Attention(width, width, num_heads)
        self.ff = FeedForward(width)
        self.attn2 = Attention(width, context_width, num_heads)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)

    def forward(self, x_BND: Tensor, context_BKD: Tensor) -> Tensor:
        h_BND = self.norm1(x_BND)
        x_BND = x_BND + self.attn1(h_BND, h_BND)
        x_BND = x_BND + self.attn2(self.norm2(x_BND), context_BKD)
        return x_BND + self.ff(self.norm3(x_BND))


class SpatialTransformer(nn.Module):
    """A transformer block on the pixels of a feature map."""

    def __init__(self, channels: int, context_width: int, num_heads: int, norm_groups: int):
        super().__init__()
        self.norm = nn.GroupNorm(norm_groups, channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList(
            [TransformerBlock(channels, context_width, num_heads)]
        )
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x_BCHW: Tensor, context_BKD: Tensor) -> Tensor:
        h_BND = self.proj_in(self.norm(x_BCHW)).flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            h_BND = block(h_BND, context_BKD)
        h_BCHW = h_BND.transpose(1, 2).unflatten(2, x_BCHW.shape[2:])
        return x_BCHW + self.proj_out(h_BCHW)


class Downsample(nn.Module):
    """Half the size (rounded up) by a strided convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.op(x_BCHW)


class Upsample(nn.Module):
    """Nearest neighbour to the size of the next skip, then a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x_BCHW: Tensor, size: torch.Size) -> Tensor:
        return self.conv(F.interpolate(x_BCHW, size=size))


class Layers(nn.Sequential):
    """A sequence of layers, each called with the arguments it takes."""

    def forward(
        self, x_BCHW: Tensor, time_BD: Tensor, context_BKD: Tensor, size: torch.Size
    ) -> Tensor:
        for layer in self:
            if isinstance(layer, ResBlock):
                x_BCHW = layer(x_BCHW, time_BD)
            elif isinstance(layer, SpatialTransformer):
                x_BCHW = layer(x_BCHW, context_BKD)
            elif isinstance(layer, Upsample):
                x_BCHW = layer(x_BCHW, size)
            else:
                x_BCHW = layer(x_BCHW)
        return x_BCHW
