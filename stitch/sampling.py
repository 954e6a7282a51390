"""From labels and a seed to images, along one stitched trajectory."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.errors import InputError
from samplers import Sampler
from samplers.guidance import Guidance
from samplers.noise import check_index, check_seed, initial_noise, random_embedding, step_noise
from samplers.sampler import Denoise
from stitch.allocation import Allocation
from stitch.intervals import warn_outside
from stitch.trajectory import Trajectory, Wrapper, evaluations
from stitch.transfer import Arriving, onto

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
        InputError: if there is no label, or one is no class, or allocation, sampler and denoisers
            do not fit.
        FloatingPointError: if a prediction is not finite, naming denoiser and step.
    """
    labels = zoo.classes.indices(labels)
    if not labels:
        raise InputError("labels=[] is empty; give at least one class")
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
    # Here, where it is known that all fit.
    times = sampler.timesteps
    called = evaluations(allocation, guidance, sampler.schedule.log_snr(times))
    warn_outside(zoo.specs, called, sampler.schedule, times, alignment == "log-snr")
    return decoded(zoo, latents).cpu().numpy()


@torch.no_grad()
def decoded(zoo, latents: Tensor) -> Tensor:
    """(B, C, H, W) latents -> (B, H, W, C) uint8 images, on the device of the zoo."""
    return zoo.first_stage.decode(latents).permute(0, 2, 3, 1)


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
        lambda width: onto(random_embedding(seed, indices, width), labels.device),
    )


@dataclass(frozen=True, eq=False)
class Walk:
    """A walk from noise to latents that a device has begun; the host need not wait for its end.

    Attributes:
        latents: (B, C, H, W), on the device.
    """

    latents: Tensor
    _finite: Arriving  # whether all latents are, (), on its way to the host
    _name_step: Callable[[], None]

    @torch.no_grad()
    def check(self) -> None:
        """Wait for the end of the walk.

        Raises:
            FloatingPointError: if a prediction was not finite, naming denoiser and step.
        """
        if not self._finite.wait():
            self._name_step()


def sample_latents(*arguments, **options) -> Tensor:
    """(B, C, H, W) latents of a walk that is waited for; see ``launch_latents``."""
    walk = launch_latents(*arguments, **options)
    walk.check()
    return walk.latents


@torch.no_grad()
def launch_latents(
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
) -> Walk:
    """Begin to sample the latents of ``indices`` with (B,) ``labels``; see ``sample``."""
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
            onto(initial_noise(seed, indices, shape), device),
            noise=lambda step: onto(step_noise(seed, indices, shape, step), device),
            callback=report if callback else None,
            switches=allocation.switches,
        )

    def name_step() -> None:
        walk(lambda x, step: _finite(trajectory, x, step, indices))
        raise FloatingPointError(f"latents of images {list(indices)} are not finite")

    denoise: Denoise = trajectory
    for wrapper in wrappers:
        denoise = wrapper.wrap(denoise, trajectory)
    latents = walk(denoise)
    # Looked at once, as a device has to be waited for; what is not finite stays so to the end.
    return Walk(latents, Arriving(torch.isfinite(latents).all()), name_step)


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
