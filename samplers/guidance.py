"""Classifier-free guidance (Ho & Salimans 2022) in the convention of the paper's code."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Guidance:
    """epsilon = eps_uncond + scale * (eps_cond - eps_uncond).

    Attributes:
        scale: 1 is unguided; the paper's 1.5, 3.0, 7.5 are this w (its equation's s is w - 1).
        channels: how many leading epsilon channels are guided; the others, and the variance
            logits, stay conditional. DiT's and the paper's code guide 3 of 4.
    """

    scale: float = 1.0
    channels: int = 3

    def __post_init__(self):
        if not self.scale >= 0:
            raise ValueError(f"guidance.scale={self.scale} must be 0 or more (1 is unguided)")
        if self.channels < 1:
            raise ValueError(f"guidance.channels={self.channels} must be 1 or more")

    def __call__(
        self, denoiser: Callable[..., Tensor], x: Tensor, t: Tensor, y: Tensor, null_label: int
    ) -> Tensor:
        """One guided prediction, (B, C or 2C, H, W); both halves go through in one batch.

        Args:
            denoiser: (x, t, y) -> (B, C or 2C, H, W).
            x: (B, C, H, W) noisy latents; t: (B,) timesteps; y: (B,) labels.
            null_label: the denoiser's label for "no class".
        """
        if self.scale == 1:
            return denoiser(x, t, y)
        null = torch.full_like(y, null_label)
        output = denoiser(torch.cat([x, x]), torch.cat([t, t]), torch.cat([y, null]))
        conditional, unconditional = output.chunk(2)
        guided = min(self.channels, x.shape[1])
        unconditional = unconditional[:, :guided]
        difference = conditional[:, :guided] - unconditional
        epsilon = unconditional + self.scale * difference
        return torch.cat([epsilon, conditional[:, guided:]], dim=1)
