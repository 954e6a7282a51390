"""U-Net of class-conditional latent diffusion (Rombach et al. 2022, arXiv 2112.10752).

Module names, and so state-dict keys, are those of CompVis checkpoints, the class embedding
included. Shape suffixes: B batch, C channels, H W size, N = H W tokens, D width, K context tokens.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.dit import timestep_sinusoid
from models.errors import InputError
from models.spec import DenoiserSpec


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
            mixed = F.scaled_dot_product_attention(q, k, v)
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


class UNet(nn.Module):
    """``forward(x, t, context)``: CompVis' ``UNetModel`` with spatial transformers of depth 1."""

    def __init__(
        self,
        channels: int,
        model_channels: int,
        channel_mult: tuple[int, ...],
        num_res_blocks: int,
        attention_resolutions: tuple[int, ...],
        num_head_channels: int | None,
        context_width: int,
        norm_groups: int,
    ):
        super().__init__()
        self.model_channels = model_channels
        time_width = 4 * model_channels

        def transformer(width: int) -> SpatialTransformer:
            num_heads = width // (num_head_channels or width)
            return SpatialTransformer(width, context_width, num_heads, norm_groups)

        def block(width: int, out: int, factor: int) -> list[nn.Module]:
            attention = [transformer(out)] if factor in attention_resolutions else []
            return [ResBlock(width, time_width, out, norm_groups), *attention]

        self.time_embed = nn.Sequential(
            nn.Linear(model_channels, time_width), nn.SiLU(), nn.Linear(time_width, time_width)
        )
        width = model_channels
        self.input_blocks = nn.ModuleList([Layers(nn.Conv2d(channels, width, 3, padding=1))])
        skips = [width]
        last = len(channel_mult) - 1
        for level, mult in enumerate(channel_mult):
            for _ in range(num_res_blocks):
                self.input_blocks.append(Layers(*block(width, mult * model_channels, 2**level)))
                width = mult * model_channels
                skips.append(width)
            if level < last:
                self.input_blocks.append(Layers(Downsample(width)))
                skips.append(width)
        self.middle_block = Layers(
            ResBlock(width, time_width, width, norm_groups),
            transformer(width),
            ResBlock(width, time_width, width, norm_groups),
        )
        self.output_blocks = nn.ModuleList()
        for level, mult in reversed(list(enumerate(channel_mult))):
            for i in range(num_res_blocks + 1):
                layers = block(width + skips.pop(), mult * model_channels, 2**level)
                width = mult * model_channels
                if level > 0 and i == num_res_blocks:
                    layers.append(Upsample(width))
                self.output_blocks.append(Layers(*layers))
        self.out = nn.Sequential(
            nn.GroupNorm(norm_groups, width), nn.SiLU(), nn.Conv2d(width, channels, 3, padding=1)
        )
        self._initialise()

    def _initialise(self) -> None:
        # Every residual branch starts at zero, and so does the output.
        zeroed = [self.out[-1]]
        for module in self.modules():
            if isinstance(module, ResBlock):
                zeroed.append(module.out_layers[-1])
            if isinstance(module, SpatialTransformer):
                zeroed.append(module.proj_out)
        for convolution in zeroed:
            nn.init.zeros_(convolution.weight)
            nn.init.zeros_(convolution.bias)

    def forward(self, x_BCHW: Tensor, t: Tensor, context_BKD: Tensor) -> Tensor:
        sinusoid = timestep_sinusoid(t, self.model_channels).to(x_BCHW.dtype)
        time_BD = self.time_embed(sinusoid)
        skips = []
        for block in self.input_blocks:
            x_BCHW = block(x_BCHW, time_BD, context_BKD, x_BCHW.shape[2:])
            skips.append(x_BCHW)
        x_BCHW = self.middle_block(x_BCHW, time_BD, context_BKD, x_BCHW.shape[2:])
        for block in self.output_blocks:
            x_BCHW = torch.cat([x_BCHW, skips.pop()], dim=1)
            size = skips[-1].shape[2:] if skips else x_BCHW.shape[2:]
            x_BCHW = block(x_BCHW, time_BD, context_BKD, size)
        return self.out(x_BCHW)


class LDM(nn.Module):
    """Class-conditional latent diffusion: ``forward(x, t, y)``; the class is one context token.

    Args:
        latent_shape: (C, H, W); odd sizes are halved rounding up and restored on the way back.
        model_channels: channels of the first level, a multiple of ``norm_groups``.
        channel_mult: channels of every level, in units of ``model_channels``.
        num_res_blocks: residual blocks per level on the way down; one more on the way up.
        attention_resolutions: downsampling factors at which spatial transformers are used.
        num_head_channels: channels of an attention head; None: one head.
        context_width: width of the class embedding.
        norm_groups: groups of every group norm. Published networks have 32; narrow ones need fewer:
            with one channel per group, a feature map loses its mean and scale.
        num_classes: real classes.
        null_class: one more label row, trained as "no class". Without it, as in the paper's
            weights, guidance needs random embeddings (``Guidance.guide``).
        schedule: name of the noise schedule the weights belong to.
        latent_space: name of the first stage they belong to; see ``DenoiserSpec``.

    Raises:
        InputError: if the sizes do not fit one another.
    """

    def __init__(
        self,
        latent_shape: tuple[int, int, int] = (4, 32, 32),
        model_channels: int = 256,
        channel_mult: tuple[int, ...] = (1, 2, 4),
        num_res_blocks: int = 2,
        attention_resolutions: tuple[int, ...] = (1, 2, 4),
        num_head_channels: int | None = 32,
        context_width: int = 512,
        norm_groups: int = 32,
        num_classes: int = 1000,
        null_class: bool = True,
        schedule: str = "ldm",
        latent_space: str | None = None,
    ):
        super().__init__()
        if model_channels % norm_groups or model_channels % (num_head_channels or 1):
            raise InputError(
                f"model_channels {model_channels} must be a multiple of norm_groups {norm_groups} "
                f"and of num_head_channels {num_head_channels}"
            )
        self.spec = DenoiserSpec(
            latent_shape=tuple(int(n) for n in latent_shape),
            num_classes=num_classes,
            null_label=num_classes if null_class else None,
            learn_sigma=False,
            schedule=schedule,
            label_width=context_width,
            latent_space=latent_space,
        )
        unet = UNet(
            latent_shape[0],
            model_channels,
            tuple(channel_mult),
            num_res_blocks,
            tuple(attention_resolutions),
            num_head_channels,
            context_width,
            norm_groups,
        )
        embedding = nn.Embedding(num_classes + int(null_class), context_width)
        self.model = nn.ModuleDict({"diffusion_model": unet})
        self.cond_stage_model = nn.ModuleDict({"embedding": embedding})

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Predict the noise in ``x``.

        Weights may be half precision; ``x`` and the result stay in the caller's dtype.

        Args:
            x: (B, C, H, W) noisy latents.
            t: (B,) timesteps in [0, 1000), integer or fractional; or (1,), shared by all.
            y: (B,) int64 labels in [0, num_classes], num_classes the null class, if any; or
                (B, context_width) embeddings of them.

        Returns:
            (B, C, H, W) epsilon.
        """
        weight = self.cond_stage_model["embedding"].weight
        embedding_BD = self.embed_labels(y) if y.dim() == 1 else y.to(weight.dtype)
        unet = self.model["diffusion_model"]
        return unet(x.to(weight.dtype), t, embedding_BD.unsqueeze(1)).to(x.dtype)

    def embed_labels(self, y: Tensor) -> Tensor:
        """(B,) int64 labels -> (B, context_width) class embeddings, the U-Net's context."""
        return self.cond_stage_model["embedding"](y)

    @staticmethod
    def native_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The part of a CompVis checkpoint that is this network: no first stage, no schedule."""
        parts = ("model.", "cond_stage_model.")
        return {name: value for name, value in state.items() if name.startswith(parts)}


# The paper's two LDM-8 (T-Stitch, table 4: no null class was trained) and CompVis' public LDM-4.
CONFIGURATIONS = {
    "LDM-S": dict(
        model_channels=64,
        context_width=256,
        null_class=False,
        latent_space="vq-f8",
    ),
    "LDM": dict(
        model_channels=256,
        context_width=512,
        null_class=False,
        latent_space="vq-f8",
    ),
    "cin256-v2": dict(
        latent_shape=(3, 64, 64),
        model_channels=192,
        channel_mult=(1, 2, 3, 5),
        attention_resolutions=(2, 4, 8),
        num_head_channels=None,
        context_width=512,
        latent_space="vq-f4",
    ),
}
