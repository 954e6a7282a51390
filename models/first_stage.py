"""First stages: images to latents and back."""

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn


class KLFirstStage(nn.Module):
    """A KL-regularised autoencoder (Rombach et al. 2022) with the latents' scale.

    Args:
        scale: latents = scale * autoencoder's latents, so that they have unit variance.
        config: arguments of ``diffusers.AutoencoderKL``.
    """

    def __init__(self, scale: float, **config):
        super().__init__()
        # The published autoencoders clamp nothing and quantise in the same way, so one decode
        # path serves them and ours.
        self.scale = scale
        self.autoencoder = AutoencoderKL(**config)

    def latent_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(C, H, W) of an image -> (c, h, w) of its latents."""
        factor = 2 ** (len(self.autoencoder.config.block_out_channels) - 1)
        _, height, width = image_shape
        return self.autoencoder.config.latent_channels, height // factor, width // factor

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

    @torch.no_grad()
    def encode(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """(B, C, H, W) uint8 images -> (B, c, h, w) latents: the posterior's mean, or a sample.

        Args:
            noise: (B, c, h, w) standard normal, for a sample of the posterior.
        """
        posterior = self.autoencoder.encode(to_unit_range(images)).latent_dist
        latents = posterior.mean if noise is None else posterior.mean + posterior.std * noise
        return self.scale * latents

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """(B, c, h, w) latents -> (B, C, H, W) uint8 images."""
        dtype = next(self.autoencoder.parameters()).dtype
        return to_uint8(self.autoencoder.decode((latents / self.scale).to(dtype)).sample)


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


def to_uint8(images: Tensor) -> Tensor:
    """Float in about [-1, 1] -> uint8, clamped and rounded down as DiT's sampling script does."""
    return (127.5 * images.float() + 128).clamp(0, 255).to(torch.uint8)
