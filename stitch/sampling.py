"""From labels and a seed to images, along one stitched trajectory."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from models.errors import InputError
from samplers import Sampler
from samplers.guidance import Guidance
from samplers.noise import check_index, check_seed, initial_noise, random_embedding, step_noise
from samplers.sampler import Denoise
from stitch.allocation import Allocation
from stitch.trajectory import Trajectory, Wrapper

ALIGNMENTS = ("log-snr", "timestep")


@torch.no_grad()
def sample(
    zoo,
    sampler: Sampler,
    allocation: Allocation,
    labels: Sequence[int | str],
    seed: int = 0,
    guidance_scale: float = 1.0,
    guidance_channels: int | None = None,
    indices: Sequence[int] | None = None,
    guidance: Guidance | None = None,
    alignment: str = "log-snr",
    callback: Callable[..., None] | None = None,
    wrappers: Sequence[Wrapper] = (),
) -> np.ndarray:
    """Sample one batch of images.

    Args:
        zoo: a ``models.Zoo``; everything runs on its device.
        sampler: from ``samplers.create``.
        allocation: the denoiser of every step.
        labels: B classes, by number or by name (see ``models.classes``).
        seed, indices: image b depends only on the settings, ``seed``, ``indices[b]`` (default: b)
            and its label.
        guidance_scale: w of eps_u + w (eps_c - eps_u); 1 is unguided.
        guidance_channels: how many epsilon channels are guided; default: the zoo's.
        guidance: guidance other than the zoo's default at every step; replaces the two above.
        alignment: how denoisers of another noise schedule than the sampler's are called: at the
            timestep with the same ``log-snr``, or (naively) at the same ``timestep``.
        callback: called after every step with ``step, t, x, x_0, denoiser, nfe``: the state and
            the prediction (B, C, H, W), the step's owner, network evaluations so far, of which
            wrappers may have saved some.
        wrappers: layers between sampler and trajectory, such as a ``SharedPrefix``; the outermost
            last.

    Returns:
        (B, H, W, C) uint8 images.

    Raises:
        InputError: if a label is no class, or allocation, sampler and denoisers do not fit.
        FloatingPointError: if a prediction is not finite, naming denoiser and step.
    """
    labels = zoo.classes.indices(labels)
    indices = range(len(labels)) if indices is None else indices
    if len(indices) != len(labels):
        raise InputError(f"there are {len(labels)} labels but {len(indices)} indices")
    if guidance is None:
        channels = zoo.guidance_channels if guidance_channels is None else guidance_channels
        guidance = Guidance(guidance_scale, channels, zoo.unconditional)
    latents = sample_latents(
        zoo.denoisers,
        sampler,
        allocation,
        torch.as_tensor(labels, device=zoo.device),
        guidance,
        seed,
        indices,
        alignment,
        callback,
        wrappers,
    )
    return to_images(zoo, latents)


@torch.no_grad()
def to_images(zoo, latents: Tensor) -> np.ndarray:
    """(B, C, H, W) latents -> (B, H, W, C) uint8 images."""
    return zoo.first_stage.decode(latents).permute(0, 2, 3, 1).cpu().numpy()


def stitched(
    denoisers,
    sampler: Sampler,
    allocation: Allocation,
    labels: Tensor,
    guidance: Guidance,
    seed: int,
    indices: Sequence[int],
    alignment: str = "log-snr",
) -> Trajectory:
    """The trajectory of the samples ``indices`` with (B,) ``labels``; see ``sample``."""
    for index in indices:
        check_index(index)
    check_seed(seed)
    if alignment not in ALIGNMENTS:
        raise InputError(f"alignment={alignment!r} is unknown; known: {', '.join(ALIGNMENTS)}")
    return Trajectory(
        denoisers,
        allocation,
        sampler.timesteps,
        labels,
        guidance,
        sampler.schedule,
        alignment == "log-snr",
        lambda width: _onto(random_embedding(seed, indices, width), labels.device),
    )


@torch.no_grad()
def sample_latents(
    denoisers,
    sampler: Sampler,
    allocation: Allocation,
    labels: Tensor,
    guidance: Guidance,
    seed: int,
    indices: Sequence[int],
    alignment: str = "log-snr",
    callback: Callable[..., None] | None = None,
    wrappers: Sequence[Wrapper] = (),
) -> Tensor:
    """(B, C, H, W) latents of the samples ``indices`` with (B,) ``labels``; see ``sample``."""
    trajectory = stitched(
        denoisers, sampler, allocation, labels, guidance, seed, indices, alignment
    )
    shape, device = denoisers[allocation.steps[0]].spec.latent_shape, labels.device
    nfe = list(itertools.accumulate(len(step) for step in trajectory.evaluations))

    def report(step: int, **state) -> None:
        callback(step=step, **state, denoiser=allocation.steps[step], nfe=nfe[step])

    def walk(denoise: Denoise) -> Tensor:
        return sampler(
            denoise,
            _onto(initial_noise(seed, indices, shape), device),
            noise=lambda step: _onto(step_noise(seed, indices, shape, step), device),
            callback=report if callback else None,
            switches=allocation.switches,
        )

    denoise: Denoise = trajectory
    for wrapper in wrappers:
        denoise = wrapper.wrap(denoise, trajectory)
    latents = walk(denoise)
    # Checked once, as every check makes the host wait; what is not finite stays so to the end.
    if not torch.isfinite(latents).all():
        walk(lambda x, step: _finite(trajectory, x, step, indices))
        raise FloatingPointError(f"latents of images {list(indices)} are not finite")
    return latents


def _onto(drawn: Tensor, device: torch.device) -> Tensor:
    """``drawn`` on the device, copied to a GPU without making the host wait."""
    if device.type == "cuda":
        return drawn.pin_memory().to(device, non_blocking=True)
    return drawn.to(device)


def _finite(trajectory: Trajectory, x: Tensor, step: int, indices: Sequence[int]) -> Tensor:
    """The prediction at ``step``, or FloatingPointError if it is not finite."""
    output = trajectory(x, step)
    finite = torch.isfinite(output).flatten(1).all(1).tolist()
    wrong = [index for index, good in zip(indices, finite, strict=True) if not good]
    if wrong:
        raise FloatingPointError(
            f"the prediction of {' and '.join(dict.fromkeys(trajectory.evaluations[step]))} at "
            f"step {step} (timestep {trajectory.timesteps[step]:g}) is not finite for images "
            f"{wrong}; check the weights, or use a wider precision"
        )
    return output
