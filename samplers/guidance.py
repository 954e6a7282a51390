"""Guidance: classifier-free (Ho & Salimans 2022), in an interval (Kynkäänniemi et al. 2024), or by
another denoiser (autoguidance, Karras et al. 2024)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from models.errors import InputError
from samplers import check

NULL_CLASS, RANDOM_EMBEDDING = "null-class", "random-embedding"


@dataclass(frozen=True)
class Guidance:
    """epsilon = eps_guide + scale * (eps_cond - eps_guide), away from what the guide predicts.

    Attributes:
        scale: w; 1 is unguided. The paper's 1.5, 3.0, 7.5 are this w; its equation and U-ViT's
            code count from the conditional prediction, s = w - 1.
        channels: how many leading epsilon channels are guided. The others, and the variance
            logits, stay conditional. DiT's and the paper's code guide 3 of 4.
        guide: ``null-class``: the denoiser that owns the step, with its label for no class;
            ``random-embedding``: the same denoiser with a random label embedding (the paper's LDM
            has no null class); or the name of a denoiser, which gets the same label. A denoiser
            that is named as its own guide is not guided.
        steps: (first, end), guide only steps first <= i < end.
        log_snr: (low, high), guide only where low <= log(alpha^2 / sigma^2) < high.
    """

    scale: float = 1.0
    channels: int = 3
    guide: str = NULL_CLASS
    steps: tuple[int, int] | None = None
    log_snr: tuple[float, float] | None = None

    def __post_init__(self):
        if not 0 <= check.number("guidance.scale", self.scale) < math.inf:
            raise InputError(f"guidance.scale={self.scale} must be 0 or more (1 is unguided)")
        check.whole("guidance.channels", self.channels, least=1)
        for setting in ("steps", "log_snr"):
            if getattr(self, setting) is None:
                continue
            interval = check.numbers(f"guidance.{setting}", getattr(self, setting))
            if not (len(interval) == 2 and interval[0] < interval[1]):
                raise InputError(f"guidance.{setting}={interval} must be [low, high], low < high")

    def active(self, step: int, log_snr: float) -> bool:
        """Whether a step is guided, given the log-SNR of its state."""
        return (
            self.scale != 1
            and (self.steps is None or self.steps[0] <= step < self.steps[1])
            and (self.log_snr is None or self.log_snr[0] <= log_snr < self.log_snr[1])
        )

    def combine(self, conditional: Tensor, guide: Tensor) -> Tensor:
        """(B, C or 2C, H, W) predictions -> the guided one, shaped as the conditional one."""
        guided = min(self.channels, guide.shape[1])
        guide = guide[:, :guided]
        epsilon = guide + self.scale * (conditional[:, :guided] - guide)
        return torch.cat([epsilon, conditional[:, guided:]], dim=1)

    def __call__(
        self,
        denoiser: Callable[..., Tensor],
        x: Tensor,
        t: Tensor,
        y: Tensor,
        null_label: int | Tensor,
    ) -> Tensor:
        """One prediction guided by the same denoiser, which sees both halves in one batch.

        Args:
            denoiser: (x, t, y) -> (B, C or 2C, H, W).
            x: (B, C, H, W) noisy latents; t: (B,) timesteps, or (1,) of all.
            y: (B,) labels, or (B, D) embeddings of them.
            null_label: the denoiser's label for "no class", or (B, D) embeddings.
        """
        if self.scale == 1:
            return denoiser(x, t, y)
        null = torch.full_like(y, null_label) if isinstance(null_label, int) else null_label
        both_t = t if len(t) == 1 else torch.cat([t, t])
        output = denoiser(torch.cat([x, x]), both_t, torch.cat([y, null]))
        return self.combine(*output.chunk(2))
