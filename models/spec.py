"""The facts about a denoiser that the rest of the code needs."""

from collections.abc import Mapping
from dataclasses import dataclass

from models.errors import InputError


@dataclass(frozen=True)
class DenoiserSpec:
    """Facts that sampling needs and that calling a network does not reveal.

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
        fractional_timesteps: False if it takes integer timesteps only.
        timestep_offset: the network is called with index + offset for an index 0..T-1 of its
            schedule; U-ViT's latent recipe counts 1..T.
        label_width: D if it also takes (B, D) label embeddings instead of labels, as
            ``embed_labels(y)`` returns them; else None.
        latent_space: name of the first stage whose latents it was trained on, its scale included
            (``sd-vae``: scaled by 0.18215); None for a zoo with a first stage of its own.
        interval: the timesteps [low, high) that it was fine-tuned on; None: all.
        cacheable: True if it also has ``evaluate`` and ``reuse``, as ``models.dit.DiT`` has, by
            which a cache spares most of the network at some steps.
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
    latent_space: str | None = None
    interval: tuple[int, int] | None = None
    cacheable: bool = False


# Predictions that convert into one another given the state and its noise (Salimans & Ho 2022).
CONVERTIBLE = ("epsilon", "x0", "v", "velocity")


def check_stitchable(specs: Mapping[str, DenoiserSpec]) -> None:
    """Raise InputError unless any two of ``specs`` (name -> spec) can share a trajectory.

    Noise schedules may differ: they are aligned by log-SNR.
    """
    for name, spec in specs.items():
        if spec.prediction_type not in CONVERTIBLE:
            raise InputError(
                f"{name} predicts {spec.prediction_type!r}, which cannot be converted; known: "
                + ", ".join(CONVERTIBLE)
            )
    (first, here), *others = specs.items()
    for other, there in others:
        differences = [
            f"{fact} is {getattr(here, fact)} and {getattr(there, fact)}"
            for fact in ("latent_shape", "latent_space", "num_classes")
            if getattr(here, fact) != getattr(there, fact)
        ]
        if differences:
            raise InputError(
                f"{first} and {other} cannot be stitched: {'; '.join(differences)}; "
                "take denoisers of the same latents and classes"
            )
