"""What a denoiser tells the rest of the house about itself."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DenoiserSpec:
    """Facts that sampling needs and that a network cannot be asked for by calling it.

    Attributes:
        latent_shape: (C, H, W) of the latents that the denoiser takes.
        num_classes: number of real classes; labels run from 0 to num_classes - 1.
        null_label: the label that means "no class" (classifier-free guidance), or None if the
            denoiser has none.
        prediction_type: what the first C output channels are: ``epsilon`` (the noise), ``x0``,
            ``v`` or ``velocity`` (see ``samplers.prediction``).
        learn_sigma: True if C more output channels hold variance logits v in about [-1, 1]
            (Nichol & Dhariwal 2021, eq. 15).
        schedule: name of the noise schedule it was trained on (see ``samplers.NoiseSchedule``).
        fractional_timesteps: False if it may be called at whole timesteps only.
        timestep_offset: how it counts timestep 0 of its schedule; U-ViT counts from 1.
        label_width: D if it takes (B, D) label embeddings in the place of labels, and makes them
            with ``embed_labels(y)``; else None.
    """

    latent_shape: tuple[int, int, int]
    num_classes: int
    null_label: int | None
    prediction_type: str = "epsilon"
    learn_sigma: bool = True
    schedule: str = "ddpm-linear"
    fractional_timesteps: bool = True
    timestep_offset: float = 0.0
    label_width: int | None = None
