"""From labels and a seed to images, along one stitched trajectory."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from samplers.guidance import Guidance
from samplers.noise import initial_noise, step_noise
from stitch.allocation import Allocation
from stitch.trajectory import Trajectory


@torch.no_grad()
def sample(
    zoo,
    sampler,
    allocation: Allocation,
    labels: Sequence[int],
    seed: int = 0,
    guidance_scale: float = 1.0,
    guidance_channels: int | None = None,
    indices: Sequence[int] | None = None,
) -> np.ndarray:
    """Sample one batch of images.

    Args:
        zoo: a ``models.Zoo``; its device is where the work is done.
        sampler: from ``samplers.create``.
        allocation: the denoiser of every step.
        labels: B class labels.
        seed, indices: image b depends only on the settings, ``seed``, ``indices[b]`` (default: b)
            and its label.
        guidance_scale: w of eps_u + w (eps_c - eps_u); 1 is unguided.
        guidance_channels: how many epsilon channels are guided; default: the zoo's.

    Returns:
        (B, H, W, C) uint8 images.

    Raises:
        ValueError: if labels are out of range, or allocation, sampler and denoisers do not fit.
    """
    check_labels(labels, zoo.num_classes)
    indices = range(len(labels)) if indices is None else indices
    if len(indices) != len(labels):
        raise ValueError(f"there are {len(labels)} labels but {len(indices)} indices")
    if sampler.schedule.name != zoo.schedule:
        raise ValueError(
            f"the sampler's noise schedule is {sampler.schedule.name}, the zoo's is {zoo.schedule}"
        )
    channels = zoo.guidance_channels if guidance_channels is None else guidance_channels
    latents = sample_latents(
        zoo.denoisers,
        sampler,
        allocation,
        torch.as_tensor(labels, device=zoo.device),
        Guidance(guidance_scale, channels),
        seed,
        indices,
    )
    return zoo.first_stage.decode(latents).permute(0, 2, 3, 1).cpu().numpy()


def sample_latents(
    denoisers, sampler, allocation: Allocation, labels: Tensor, guidance: Guidance, seed, indices
) -> Tensor:
    """(B, C, H, W) latents of the samples ``indices`` with (B,) ``labels``; see ``sample``."""
    shape = denoisers[allocation.steps[0]].spec.latent_shape
    trajectory = Trajectory(denoisers, allocation, sampler.timesteps, labels, guidance)
    x = initial_noise(seed, indices, shape).to(labels.device)
    return sampler(
        trajectory,
        x,
        noise=lambda step: step_noise(seed, indices, shape, step).to(labels.device),
    )


def check_labels(labels: Sequence[int], num_classes: int) -> None:
    """Raise ValueError unless every label is a class."""
    wrong = sorted({int(label) for label in labels if not 0 <= int(label) < num_classes})
    if wrong:
        raise ValueError(
            f"labels {wrong} are out of range; this zoo's classes are 0 to {num_classes - 1}"
        )
