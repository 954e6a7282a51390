"""U-ViT: a transformer with long skip connections (Bao et al. 2023, arXiv 2209.12152).

Module names, and so state-dict keys, are those of the published U-ViT checkpoints.
Shape suffixes: B batch, C latent channels, H W latent size, N tokens, D width.
"""

import torch
from torch import Tensor, nn

from models.dit import timestep_sinusoid
from models.errors import InputError
from models.spec import DenoiserSpec
from models.transformer import Attention, Mlp, PatchEmbed


class Block(nn.Module):
    """Pre-norm transformer block; with ``skip`` it first merges a long skip connection."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: float, skip: bool):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, num_heads, qkv_bias=False)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, int(width * mlp_ratio))
        self.skip_linear = nn.Linear(2 * width, width) if skip else None

    def forward(self, x_BND: Tensor, skip_BND: Tensor | None = None) -> Tensor:
        if self.skip_linear is not None:
            x_BND = self.skip_linear(torch.cat([x_BND, skip_BND], dim=-1))
        x_BND = x_BND + self.attn(self.norm1(x_BND))
        return x_BND + self.mlp(self.norm2(x_BND))


class UViT(nn.Module):
    """Class and time are tokens beside the patches: ``forward(x, t, y)`` on latents or pixels.

    Args:
        latent_shape: (C, H, W); H and W must be multiples of ``patch_size``.
        patch_size: side of the square of latent values that makes one token.
        width, depth, num_heads, mlp_ratio: transformer sizes; ``depth`` is even and counts the
            blocks beside the middle one.
        num_classes: real classes; 0: unconditional, labels are ignored.
        null_class: one more label row, trained as "no class".
        conv: a 3x3 convolution over the assembled output.
        schedule: name of the noise schedule the weights belong to.
        timestep_offset, latent_space: see ``DenoiserSpec``.

    Raises:
        InputError: if the sizes do not fit one another.
    """

    def __init__(
        self,
        latent_shape: tuple[int, int, int] = (4, 32, 32),
        patch_size: int = 2,
        width: int = 1152,
        depth: int = 28,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        num_classes: int = 1000,
        null_class: bool = True,
        conv: bool = True,
        schedule: str = "stable-diffusion",
        timestep_offset: int = 1,
        latent_space: str | None = None,
    ):
        super().__init__()
        channels, height, width_latent = (int(n) for n in latent_shape)
        if height % patch_size or width_latent % patch_size:
            raise InputError(
                f"latent_shape {tuple(latent_shape)} is not a multiple of patch_size {patch_size}"
            )
        if width % num_heads or width % 2 or depth % 2:
            raise InputError(
                f"width {width} must be even and a multiple of num_heads {num_heads}, "
                f"and depth {depth} even (every block down has one up)"
            )
        self.spec = DenoiserSpec(
            latent_shape=(channels, height, width_latent),
            num_classes=num_classes,
            null_label=num_classes if num_classes and null_class else None,
            learn_sigma=False,
            schedule=schedule,
            timestep_offset=timestep_offset,
            latent_space=latent_space,
            cacheable=True,
        )
        self.width, self.patch_size = width, patch_size
        self.grid = (height // patch_size, width_latent // patch_size)
        self.num_extra = 2 if num_classes else 1  # tokens of label and time

        def block(skip: bool = False) -> Block:
            return Block(width, num_heads, mlp_ratio, skip)

        self.patch_embed = PatchEmbed(patch_size, channels, width)
        if num_classes:
            self.label_emb = nn.Embedding(num_classes + int(null_class), width)
        tokens = self.num_extra + self.grid[0] * self.grid[1]
        self.pos_embed = nn.Parameter(torch.empty(1, tokens, width))
        self.in_blocks = nn.ModuleList(block() for _ in range(depth // 2))
        self.mid_block = block()
        self.out_blocks = nn.ModuleList(block(skip=True) for _ in range(depth // 2))
        self.norm = nn.LayerNorm(width)
        self.decoder_pred = nn.Linear(width, patch_size * patch_size * channels)
        self.final_layer = nn.Conv2d(channels, channels, 3, padding=1) if conv else nn.Identity()
        self._initialise()

    def _initialise(self) -> None:
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Predict the noise in ``x``.

        Weights may be half precision; ``x`` and the result stay in the caller's dtype.

        Args:
            x: (B, C, H, W) noisy latents.
            t: (B,) timesteps, or (1,), shared by all; fractional allowed; as in training, the index
                of the schedule plus ``spec.timestep_offset``.
            y: (B,) int64 labels in [0, num_classes]; num_classes is the null class, if any.

        Returns:
            (B, C, H, W) epsilon.
        """
        return self._head(self._trunk(x, t, y)).to(x.dtype)

    def evaluate(self, x: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """What ``forward`` returns and, to be kept for ``reuse``, the tokens after all blocks.

        Returns:
            The prediction, and (B, N, D) tokens in the precision of the weights.
        """
        x_BND = self._trunk(x, t, y)
        return self._head(x_BND).to(x.dtype), x_BND

    def reuse(self, kept_BND: Tensor, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Predict from tokens after all blocks, which ``evaluate`` returned or a cache forecast.

        Only the output layers are computed; of ``x``, only the dtype matters, and ``t`` and ``y``
        do not.
        """
        return self._head(kept_BND).to(x.dtype)

    def _trunk(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        patches_BND = self.patch_embed(x.to(self.pos_embed.dtype))
        time_BD = timestep_sinusoid(t, self.width).to(self.pos_embed.dtype)
        time_B1D = time_BD.expand(len(x), -1).unsqueeze(1)
        label = [self.label_emb(y).unsqueeze(1)] if self.spec.num_classes else []
        x_BND = torch.cat([*label, time_B1D, patches_BND], dim=1) + self.pos_embed
        skips = []
        for block in self.in_blocks:
            x_BND = block(x_BND)
            skips.append(x_BND)
        x_BND = self.mid_block(x_BND)
        for block in self.out_blocks:
            x_BND = block(x_BND, skips.pop())
        return x_BND

    def _head(self, x_BND: Tensor) -> Tensor:
        patches_BND = self.decoder_pred(self.norm(x_BND))[:, self.num_extra :]
        return self.final_layer(self._unpatchify(patches_BND))

    def _unpatchify(self, x_BND: Tensor) -> Tensor:
        (rows, columns), p = self.grid, self.patch_size
        channels = self.spec.latent_shape[0]
        x = x_BND.reshape(-1, rows, columns, p, p, channels)
        return x.permute(0, 5, 1, 3, 2, 4).reshape(-1, channels, rows * p, columns * p)


# name -> width, depth, heads (U-ViT paper, table 1, without its middle block)
SIZES = {
    "S": dict(width=512, depth=12, num_heads=8),
    "M": dict(width=768, depth=16, num_heads=12),
    "L": dict(width=1024, depth=20, num_heads=16),
    "H": dict(width=1152, depth=28, num_heads=16),
}
# Models trained with the continuous VP SDE (beta 0.1 .. 20), called with 999 t: its discretisation
# is DDPM's linear schedule.
_CONTINUOUS = dict(schedule="ddpm-linear", timestep_offset=0)
# The latent ImageNet 256 models. L and H are published; L is a continuous-time model, and only H
# has no last convolution.
CONFIGURATIONS = {
    **{f"U-ViT-{size}/2": dict(**SIZES[size], latent_space="sd-vae") for size in ("S", "M")},
    "U-ViT-L/2": dict(**SIZES["L"], **_CONTINUOUS, latent_space="sd-vae"),
    "U-ViT-H/2": dict(**SIZES["H"], conv=False, latent_space="sd-vae"),
    # The pixel models, by their names in the reference repository.
    "cifar10_uvit_small": dict(
        **SIZES["S"], **_CONTINUOUS, latent_shape=(3, 32, 32), patch_size=2, num_classes=0
    ),
    "imagenet64_uvit_mid": dict(
        **SIZES["M"], **_CONTINUOUS, latent_shape=(3, 64, 64), patch_size=4, null_class=False
    ),
    "imagenet64_uvit_large": dict(
        **SIZES["L"], **_CONTINUOUS, latent_shape=(3, 64, 64), patch_size=4, null_class=False
    ),
}
