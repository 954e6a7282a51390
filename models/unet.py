"""U-Net of class-conditional latent diffusion (Rombach et al. 2022, arXiv 2112.10752).

Module names, and so state-dict keys, are those of CompVis checkpoints, the class embedding
included. Shape suffixes: B batch, C channels, H W size, N = H W tokens, D width, K context tokens.
"""

import torch
from torch import Tensor, nn

from models.dit import timestep_sinusoid
from models.errors import InputError
from models.spec import DenoiserSpec
from models.unet_layers import Downsample, Layers, ResBlock, SpatialTransformer, Upsample


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
        return self.evaluate(x_BCHW, t, context_BKD)[0]

    def evaluate(self, x_BCHW: Tensor, t: Tensor, context_BKD: Tensor) -> tuple[Tensor, Tensor]:
        """The output, and what enters the last output block from below: the deep branch."""
        time_BD = self._time(t, x_BCHW)
        skips = []
        for block in self.input_blocks:
            x_BCHW = block(x_BCHW, time_BD, context_BKD, x_BCHW.shape[2:])
            skips.append(x_BCHW)
        x_BCHW = self.middle_block(x_BCHW, time_BD, context_BKD, x_BCHW.shape[2:])
        *deep, _ = self.output_blocks
        for block in deep:
            x_BCHW = torch.cat([x_BCHW, skips.pop()], dim=1)
            x_BCHW = block(x_BCHW, time_BD, context_BKD, skips[-1].shape[2:])
        return self._last(x_BCHW, skips.pop(), time_BD, context_BKD), x_BCHW

    def reuse(self, kept_BCHW: Tensor, x_BCHW: Tensor, t: Tensor, context_BKD: Tensor) -> Tensor:
        """The output, with only the first input block and the last output block computed anew."""
        time_BD = self._time(t, x_BCHW)
        skip_BCHW = self.input_blocks[0](x_BCHW, time_BD, context_BKD, x_BCHW.shape[2:])
        return self._last(kept_BCHW, skip_BCHW, time_BD, context_BKD)

    def _time(self, t: Tensor, x_BCHW: Tensor) -> Tensor:
        return self.time_embed(timestep_sinusoid(t, self.model_channels).to(x_BCHW.dtype))

    def _last(
        self, deep_BCHW: Tensor, skip_BCHW: Tensor, time_BD: Tensor, context_BKD: Tensor
    ) -> Tensor:
        x_BCHW = torch.cat([deep_BCHW, skip_BCHW], dim=1)
        return self.out(self.output_blocks[-1](x_BCHW, time_BD, context_BKD, x_BCHW.shape[2:]))


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
            cacheable=True,
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
        return self.unet(*self._native(x, t, y)).to(x.dtype)

    def evaluate(self, x: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """What ``forward`` returns and, to be kept for ``reuse``, the deep branch.

        That is all but the first input block and the last output block, which the shallowest skip
        connects: where DeepCache cuts this U-Net (Ma et al. 2023, arXiv 2312.00858).

        Returns:
            The prediction, and the (B, channels, H, W) input of the last output block without its
            skip, in the precision of the weights.
        """
        output, kept = self.unet.evaluate(*self._native(x, t, y))
        return output.to(x.dtype), kept

    def reuse(self, kept_BCHW: Tensor, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Predict from the deep branch, which ``evaluate`` returned or a cache forecast."""
        return self.unet.reuse(kept_BCHW, *self._native(x, t, y)).to(x.dtype)

    @property
    def unet(self) -> UNet:
        return self.model["diffusion_model"]

    def _native(self, x: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Arguments of the U-Net, in the precision of the weights."""
        weight = self.cond_stage_model["embedding"].weight
        embedding_BD = self.embed_labels(y) if y.dim() == 1 else y.to(weight.dtype)
        return x.to(weight.dtype), t, embedding_BD.unsqueeze(1)

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
