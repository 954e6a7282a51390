"""DiT: diffusion transformers with adaLN-Zero conditioning (Peebles & Xie 2023, arXiv 2212.09748).

Module names, and so state-dict keys, are those of the published DiT checkpoints.
Shape suffixes: B batch, C latent channels, H W latent size, N tokens, D width.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

from models.adapters import dit_from_diffusers
from models.errors import InputError
from models.spec import DenoiserSpec
from models.transformer import Attention, Mlp, PatchEmbed


class TimestepEmbedder(nn.Module):
    """Timestep (fractional allowed, in units of training steps) -> vector of the model's width."""

    def __init__(self, width: int, frequency_width: int = 256, frequency_shift: int = 0):
        super().__init__()
        self.frequency_width, self.frequency_shift = frequency_width, frequency_shift
        self.mlp = nn.Sequential(
            nn.Linear(frequency_width, width), nn.SiLU(), nn.Linear(width, width)
        )

    def forward(self, t: Tensor) -> Tensor:
        sinusoid_BF = timestep_sinusoid(t, self.frequency_width, shift=self.frequency_shift)
        return self.mlp(sinusoid_BF.to(self.mlp[0].weight.dtype))


class LabelEmbedder(nn.Module):
    """Class label -> vector; the last row of the table is the null class."""

    def __init__(self, num_classes: int, width: int):
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + 1, width)

    def forward(self, y: Tensor) -> Tensor:
        return self.embedding_table(y)


class DiTBlock(nn.Module):
    """Attention and MLP, each modulated (shift, scale) and gated by the conditioning vector."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attn = Attention(width, num_heads, qkv_bias=True)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.mlp = Mlp(width, int(width * mlp_ratio), approximate="tanh")
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x_BND: Tensor, c_BD: Tensor) -> Tensor:
        modulation = self.adaLN_modulation(c_BD).unsqueeze(1).chunk(6, dim=-1)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = modulation
        x_BND = x_BND + gate_a * self.attn(modulate(self.norm1(x_BND), shift_a, scale_a))
        return x_BND + gate_m * self.mlp(modulate(self.norm2(x_BND), shift_m, scale_m))


class FinalLayer(nn.Module):
    """Modulated projection of every token to its patch of output values."""

    def __init__(self, width: int, patch_size: int, out_channels: int):
        super().__init__()
        self.norm_final = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(width, patch_size * patch_size * out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x_BND: Tensor, c_BD: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c_BD).unsqueeze(1).chunk(2, dim=-1)
        return self.linear(modulate(self.norm_final(x_BND), shift, scale))


class DiT(nn.Module):
    """Diffusion transformer: ``forward(x, t, y)`` on latents.

    Args:
        latent_shape: (C, H, W); H and W must be multiples of ``patch_size``.
        patch_size: side of the square of latent values that makes one token.
        width, depth, num_heads, mlp_ratio: transformer sizes.
        num_classes: real classes; label ``num_classes`` is the null class.
        learn_sigma: also predict variance logits (2C output channels instead of C).
        schedule: name of the noise schedule the weights belong to.
        latent_space: name of the first stage they belong to; see ``DenoiserSpec``.
        prediction_type: what they were trained to predict; see ``DenoiserSpec``.
        frequency_shift: 1 gives the timestep frequencies of diffusers' DiT class, which spreads
            them over 127 intervals instead of the 128 that all published weights were trained with.

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
        learn_sigma: bool = True,
        schedule: str = "ddpm-linear",
        latent_space: str | None = None,
        prediction_type: str = "epsilon",
        frequency_shift: int = 0,
    ):
        super().__init__()
        channels, height, width_latent = (int(n) for n in latent_shape)
        if height % patch_size or width_latent % patch_size:
            raise InputError(
                f"latent_shape {tuple(latent_shape)} is not a multiple of patch_size {patch_size}"
            )
        if width % num_heads or width % 4:
            raise InputError(
                f"width {width} must be a multiple of num_heads {num_heads} and of 4"
                " (sine and cosine of two axes)"
            )
        self.spec = DenoiserSpec(
            latent_shape=(channels, height, width_latent),
            num_classes=num_classes,
            null_label=num_classes,
            prediction_type=prediction_type,
            learn_sigma=learn_sigma,
            schedule=schedule,
            latent_space=latent_space,
            cacheable=True,
        )
        self.patch_size = patch_size
        self.grid = (height // patch_size, width_latent // patch_size)
        self.out_channels = 2 * channels if learn_sigma else channels
        self.x_embedder = PatchEmbed(patch_size, channels, width)
        self.t_embedder = TimestepEmbedder(width, frequency_shift=frequency_shift)
        self.y_embedder = LabelEmbedder(num_classes, width)
        self.width = width
        self.pos_embed = nn.Parameter(self.position_table(), requires_grad=False)
        self.blocks = nn.ModuleList(DiTBlock(width, num_heads, mlp_ratio) for _ in range(depth))
        self.final_layer = FinalLayer(width, patch_size, self.out_channels)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        patch_weight = self.x_embedder.proj.weight
        nn.init.xavier_uniform_(patch_weight.view(patch_weight.shape[0], -1))
        nn.init.zeros_(self.x_embedder.proj.bias)
        nn.init.normal_(self.y_embedder.embedding_table.weight, std=0.02)
        nn.init.normal_(self.t_embedder.mlp[0].weight, std=0.02)
        nn.init.normal_(self.t_embedder.mlp[2].weight, std=0.02)
        # adaLN-Zero: every block starts as the identity, the network as the zero function.
        for block in self.blocks:
            nn.init.zeros_(block.adaLN_modulation[1].weight)
        nn.init.zeros_(self.final_layer.adaLN_modulation[1].weight)
        nn.init.zeros_(self.final_layer.linear.weight)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Predict the noise (and variance logits) in ``x``.

        Weights may be half precision; ``x`` and the result stay in the caller's dtype.

        Args:
            x: (B, C, H, W) noisy latents.
            t: (B,) timesteps in [0, 1000), integer or fractional; or (1,), shared by all.
            y: (B,) int64 labels in [0, num_classes]; num_classes is the null class.

        Returns:
            (B, C, H, W) epsilon, or (B, 2C, H, W) epsilon and variance logits if ``learn_sigma``.
        """
        c_BD = self.conditioning(t, y)
        return self.head(self._trunk(x, c_BD), c_BD).to(x.dtype)

    def evaluate(self, x: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """What ``forward`` returns and, to be kept for ``reuse``, the tokens after all blocks.

        Returns:
            The prediction, and (B, N, D) tokens in the precision of the weights.
        """
        c_BD = self.conditioning(t, y)
        x_BND = self._trunk(x, c_BD)
        return self.head(x_BND, c_BD).to(x.dtype), x_BND

    def reuse(self, kept_BND: Tensor, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Predict from tokens after all blocks, which ``evaluate`` returned or a cache forecast.

        Only the conditioning and the final layer are computed; of ``x``, only the dtype matters.
        """
        return self.head(kept_BND, self.conditioning(t, y)).to(x.dtype)

    def conditioning(self, t: Tensor, y: Tensor) -> Tensor:
        """(B, D): what modulates the blocks and the final layer."""
        return self.t_embedder(t) + self.y_embedder(y)

    def embed(self, x: Tensor) -> Tensor:
        """(B, N, D): the tokens before the first block, in the precision of the weights."""
        return self.x_embedder(x.to(self.pos_embed.dtype)) + self.pos_embed

    def _trunk(self, x: Tensor, c_BD: Tensor) -> Tensor:
        x_BND = self.embed(x)
        for block in self.blocks:
            x_BND = block(x_BND, c_BD)
        return x_BND

    def head(self, x_BND: Tensor, c_BD: Tensor) -> Tensor:
        """(B, C or 2C, H, W): the prediction from the tokens after all blocks."""
        return self._unpatchify(self.final_layer(x_BND, c_BD))

    def position_table(self) -> Tensor:
        """(1, N, D) float32: the fixed values of ``pos_embed``."""
        return torch.from_numpy(position_table(self.width, *self.grid)).float().unsqueeze(0)

    def native_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state dict in DiT's or diffusers' layout -> DiT's layout."""
        if "transformer_blocks.0.attn1.to_q.weight" not in state:
            return state
        state = dit_from_diffusers(state, len(self.blocks))
        return {"pos_embed": self.position_table().to(next(iter(state.values()))), **state}

    def _unpatchify(self, x_BND: Tensor) -> Tensor:
        (rows, columns), p = self.grid, self.patch_size
        x = x_BND.reshape(-1, rows, columns, p, p, self.out_channels)
        return x.permute(0, 5, 1, 3, 2, 4).reshape(-1, self.out_channels, rows * p, columns * p)


def modulate(x_BND: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Shift and scale tokens (B, N, D) by conditioning (B, 1, D)."""
    return x_BND * (1 + scale) + shift


def timestep_sinusoid(
    t: Tensor, width: int, max_period: float = 10_000.0, shift: int = 0
) -> Tensor:
    """(B,) timesteps -> (B, width) float32 sinusoids, cosines first (DiT, ADM, LDM, U-ViT).

    The exponents are rounded to float32 as in the references. The exponential is computed in
    float64: in float32 it differs between machines, and the timestep multiplies that by up to 1000.
    Apple GPUs have no float64.
    """
    half = width // 2
    indices = torch.arange(half, dtype=torch.float32, device=t.device)
    exponents = -math.log(max_period) * indices / (half - shift)
    finest = torch.float32 if t.device.type == "mps" else torch.float64
    angles = t.float()[:, None] * exponents.to(finest).exp().float()
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def position_table(width: int, rows: int, columns: int) -> np.ndarray:
    """Fixed 2-D sine-cosine position table, float64 (rows * columns, width).

    The first half of the channels encodes the column and the second the row, each sines first;
    published checkpoints were trained with this order.
    """
    frequencies = 10_000.0 ** (-np.arange(width // 4, dtype=np.float64) / (width / 4))
    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")

    def encode(position: np.ndarray) -> np.ndarray:
        angles = position.reshape(-1, 1).astype(np.float64) * frequencies
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

    return np.concatenate([encode(column), encode(row)], axis=1)


# name -> (width, depth, heads); each exists with patch size 2, 4 and 8 (DiT paper, table 1).
SIZES = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "XL": (1152, 28, 16)}
CONFIGURATIONS = {
    f"DiT-{size}/{patch}": dict(
        width=width, depth=depth, num_heads=heads, patch_size=patch, latent_space="sd-vae"
    )
    for size, (width, depth, heads) in SIZES.items()
    for patch in (2, 4, 8)
}
