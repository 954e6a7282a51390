"""First stages: images to latents and back.

diffusers is imported where an autoencoder is created: it takes longer to import than torch, and
most commands need no first stage.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.adapters import autoencoder_state
from models.errors import InputError

# Decoded at once; a decoder's activations take about 1 kB per pixel in float32.
DECODED_PIXELS = 2**19


class FirstStage(nn.Module):
    """A diffusers autoencoder and the scale of its latents.

    Args:
        autoencoder: the network.
        scale: latents = scale * autoencoder's latents, so that they have about unit variance.
        rounding: how decoded images become uint8; see ``to_uint8``.
        patch_size: side of the pixel squares that become one position with all values as channels
            (pixel unshuffle), which saves a CPU the full-size feature maps.
    """

    def __init__(self, autoencoder: nn.Module, scale: float, rounding: str, patch_size: int = 1):
        super().__init__()
        if rounding not in _ROUNDINGS:
            raise InputError(f"rounding {rounding!r} is unknown; known: {', '.join(_ROUNDINGS)}")
        self.scale, self.rounding, self.patch_size = scale, rounding, patch_size
        self.autoencoder = autoencoder

    @property
    def factor(self) -> int:
        """Pixels per latent along each side."""
        return self.patch_size * 2 ** (len(self.autoencoder.config.block_out_channels) - 1)

    def latent_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(C, H, W) of an image -> (c, h, w) of its latents."""
        _, height, width = image_shape
        return self.autoencoder.config.latent_channels, height // self.factor, width // self.factor

    @torch.no_grad()
    def encode(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """(B, C, H, W) uint8 images -> (B, c, h, w) latents.

        Args:
            noise: (B, c, h, w) standard normal, to sample the posterior if there is one; None takes
                its mean.
        """
        return self.latents(to_unit_range(images), noise)

    @torch.no_grad()
    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (B, c, h, w) of the latents of (B, C, H, W) uint8 images."""
        mean = self.encode(images)
        return mean, torch.zeros_like(mean)

    def latents(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """(B, C, H, W) images in [-1, 1] -> (B, c, h, w) latents, as ``encode``; with gradients."""
        return self.scale * self._latents(self._patched(images), noise)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """(B, c, h, w) latents -> (B, C, H, W) uint8 images, a few at a time if they are large."""
        parts = latents.split(self.decoded_at_once(latents.shape[1:]))
        return torch.cat([to_uint8(self(part), self.rounding) for part in parts])

    def decoded_at_once(self, latent_shape: tuple[int, int, int]) -> int:
        """How many latents (c, h, w) ``decode`` takes in one batch."""
        _, height, width = latent_shape
        return max(1, DECODED_PIXELS // (self.factor**2 * height * width))

    def forward(self, latents: Tensor) -> Tensor:
        """(B, c, h, w) latents -> (B, C, H, W) images in about [-1, 1]."""
        dtype = next(self.autoencoder.parameters()).dtype
        patches = self.autoencoder.decode((latents / self.scale).to(dtype), return_dict=False)[0]
        return F.pixel_shuffle(patches, self.patch_size)

    def _patched(self, images: Tensor) -> Tensor:
        dtype = next(self.autoencoder.parameters()).dtype
        return F.pixel_unshuffle(images.to(dtype), self.patch_size)

    def _latents(self, patches: Tensor, noise: Tensor | None) -> Tensor:
        return self.autoencoder.encode(patches).latents

    def native_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state dict of ours, of CompVis or of diffusers -> ours."""
        if any(name.startswith("autoencoder.") for name in state):
            return state
        return {f"autoencoder.{name}": value for name, value in autoencoder_state(state).items()}


class KLFirstStage(FirstStage):
    """A KL-regularised autoencoder (Rombach et al. 2022).

    Args:
        scale, rounding, patch_size: see ``FirstStage``.
        config: arguments of ``diffusers.AutoencoderKL``.
    """

    def __init__(self, scale: float, rounding: str = "nearest", patch_size: int = 1, **config):
        from diffusers import AutoencoderKL

        super().__init__(AutoencoderKL(**config), scale, rounding, patch_size)

    @torch.no_grad()
    def normalise(self, mean: Tensor, std: Tensor) -> None:
        """Change the weights so that latents z become (z - mean) / std; images stay the same.

        Args:
            mean, std: (c,) statistics of the autoencoder's latents, per channel.
        """
        weight = self.autoencoder.quant_conv.weight
        mean, std = mean.to(weight), std.to(weight)
        channels = len(mean)
        into, out = self.autoencoder.quant_conv, self.autoencoder.post_quant_conv
        # The convolution before the latents gives mean and log-variance of the posterior.
        into.weight[:channels] /= std.view(-1, 1, 1, 1)
        into.bias[:channels] = (into.bias[:channels] - mean) / std
        into.bias[channels:] -= 2 * std.log()
        out.bias += out.weight[:, :, 0, 0] @ mean
        out.weight *= std.view(1, -1, 1, 1)

    def posterior(self, images: Tensor):
        """The distribution (diffusers' ``DiagonalGaussianDistribution``) of unscaled latents.

        Args:
            images: (B, C, H, W) in [-1, 1].
        """
        return self.autoencoder.encode(self._patched(images)).latent_dist

    @torch.no_grad()
    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See ``FirstStage.moments``."""
        posterior = self.posterior(to_unit_range(images))
        return self.scale * posterior.mean, self.scale * posterior.std

    def _latents(self, patches: Tensor, noise: Tensor | None) -> Tensor:
        posterior = self.autoencoder.encode(patches).latent_dist
        return posterior.mean if noise is None else posterior.mean + posterior.std * noise


class VQFirstStage(FirstStage):
    """A vector-quantised autoencoder (Esser et al. 2021): latents are quantised when decoded.

    Args:
        scale, rounding: see ``FirstStage``.
        config: arguments of ``diffusers.VQModel``.
    """

    def __init__(self, scale: float = 1.0, rounding: str = "nearest", **config):
        from diffusers import VQModel

        super().__init__(VQModel(**config), scale, rounding)


class TinyFirstStage(FirstStage):
    """A small, fast stand-in for another autoencoder (TAESD); its latents are scaled already.

    Args:
        scale, rounding, patch_size: see ``FirstStage``.
        config: arguments of ``diffusers.AutoencoderTiny``.
    """

    def __init__(
        self, scale: float = 1.0, rounding: str = "nearest", patch_size: int = 1, **config
    ):
        from diffusers import AutoencoderTiny

        super().__init__(AutoencoderTiny(**config), scale, rounding, patch_size)


class IdentityFirstStage(nn.Module):
    """Pixels are the latents: for denoisers that work on images in [-1, 1]."""

    def encode(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """(B, C, H, W) uint8 -> float32 in [-1, 1]; there is no posterior, ``noise`` is unused."""
        return to_unit_range(images)

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, H, W) float in about [-1, 1] -> uint8."""
        return to_uint8(latents)


def to_unit_range(images: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def to_uint8(images: Tensor, rounding: str = "nearest") -> Tensor:
    """Float in about [-1, 1] -> uint8, clamped.

    Args:
        rounding: of 255 (x + 1) / 2: ``nearest`` as DiT's and U-ViT's sampling scripts do, or
            ``down`` as LDM's do.
    """
    return _ROUNDINGS[rounding](images.float()).to(torch.uint8)


_ROUNDINGS = {
    "nearest": lambda images: (127.5 * images + 128).clamp(0, 255),
    "down": lambda images: 255 * ((images + 1) / 2).clamp(0, 1),
}

_DOWN, _UP = "DownEncoderBlock2D", "UpDecoderBlock2D"
# name -> architecture, sizes. The name stands for the latent space: its scale is part of it.
CONFIGURATIONS = {
    # Stable Diffusion's autoencoder; ft-ema and ft-mse are weights of it.
    "sd-vae": (
        "first-stage-kl",
        dict(
            scale=0.18215,
            down_block_types=(_DOWN,) * 4,
            up_block_types=(_UP,) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=4,
        ),
    ),
    # CompVis' VQ models, used with unscaled latents.
    "vq-f8": (
        "first-stage-vq",
        dict(
            rounding="down",
            down_block_types=(_DOWN,) * 3 + ("AttnDownEncoderBlock2D",),
            up_block_types=("AttnUpDecoderBlock2D",) + (_UP,) * 3,
            block_out_channels=(128, 256, 256, 512),
            layers_per_block=2,
            latent_channels=4,
            num_vq_embeddings=16384,
        ),
    ),
    "vq-f4": (
        "first-stage-vq",
        dict(
            rounding="down",
            down_block_types=(_DOWN,) * 3,
            up_block_types=(_UP,) * 3,
            block_out_channels=(128, 256, 512),
            layers_per_block=2,
            latent_channels=3,
            num_vq_embeddings=8192,
        ),
    ),
    # A preview of sd-vae latents.
    "taesd": ("first-stage-tiny", {}),
}
