"""The same DiT and the same steps in diffusers."""

import tempfile
from collections.abc import Callable

import torch
from diffusers import DDIMScheduler, DiTTransformer2DModel
from omegaconf import DictConfig
from torch import Tensor, nn

import models
import samplers
import stitch
from eval.speed import timing
from eval.speed.variants import denoiser_variant, weighted
from models.adapters import save_diffusers
from models.dit import DiT
from models.errors import InputError
from samplers import Guidance
from stitch.runs import devices
from stitch.sampling import sample_latents


def rows(config: DictConfig, zoo: models.Zoo, name: str, device) -> list[dict]:
    """One denoiser: a network call, and a guided DDIM trajectory, ours and diffusers'."""
    tasks, batch = {}, config.batch_size
    for variant in config.variants:
        # Diffusers' timestep frequencies, so that the results can agree.
        ours, _ = denoiser_variant(zoo, name, variant, config, device, 2 * batch, shift=1)
        theirs = diffusers_dit(weighted(zoo, name, device), variant)
        tasks |= diffusers_tasks(config, ours, theirs, variant, zoo.guidance_channels)
    seconds = timing.in_turn(tasks, config.repetitions, device)
    found_rows = []
    for task, times in seconds.items():
        who, what, variant = task
        best = min(
            timing.summary(seconds[other])["median_ms"]
            for other in seconds
            if other[0] != who and other[1] == what
        )
        found = timing.summary(times)
        found_rows.append(
            {
                "denoiser": name,
                "library": who,
                "what": what,
                "variant": variant,
                "batch": batch,
                **found,
                "speed_up_over_best_of_other": best / found["median_ms"],
            }
        )
    return found_rows


def diffusers_dit(network: nn.Module, variant: str) -> nn.Module:
    """``DiTTransformer2DModel`` with the weights of a DiT, in a precision, compiled or not.

    Raises:
        InputError: if the network is no DiT.
    """
    if not isinstance(network, DiT):
        raise InputError("peers=[diffusers] compares DiTs; choose them with denoisers=[...]")
    device = network.pos_embed.device
    with tempfile.TemporaryDirectory() as folder:
        save_diffusers(network, folder, {})
        precision, _, how = variant.partition("+")
        theirs = DiTTransformer2DModel.from_pretrained(
            folder, torch_dtype=devices.dtype(precision, device), low_cpu_mem_usage=False
        )
    theirs = theirs.to(device).eval().requires_grad_(False)
    return torch.compile(theirs, dynamic=False) if how else theirs


def diffusers_tasks(
    config: DictConfig, ours: DiT, theirs: nn.Module, variant: str, channels: int
) -> dict[tuple[str, str, str], Callable[[], Tensor]]:
    """(library, what, variant) -> task: one guided network call, and a whole DDIM trajectory.

    Raises:
        InputError: if the two do not compute the same.
    """
    device, dtype = ours.pos_embed.device, ours.pos_embed.dtype
    batch, steps, scale = config.batch_size, config.sampler.steps, config.guidance.scale
    shape, classes = ours.spec.latent_shape, ours.spec.num_classes
    generator = torch.Generator(device).manual_seed(0)
    noise = torch.randn(batch, *shape, generator=generator, device=device)
    labels = torch.arange(batch, device=device) % classes
    both = torch.cat([labels, torch.full_like(labels, ours.spec.null_label)])
    x, t = torch.cat([noise, noise]), torch.full((2 * batch,), 500, device=device)

    def call_theirs(x: Tensor, t: Tensor) -> Tensor:
        return theirs(x.to(dtype), timestep=t, class_labels=both).sample.float()

    one_t = t[:1].float()  # ours takes that of all images, as a trajectory gives it
    difference = (ours(x, one_t, both) - call_theirs(x, t)).abs().max().item()
    if difference > (1e-3 if dtype == torch.float32 else 0.2):
        raise InputError(f"ours and diffusers' networks differ by {difference:.3g} ({variant})")

    sampler = samplers.create("ddim", steps=steps, schedule=ours.spec.schedule)
    allocation = stitch.Allocation.from_fractions({"network": 1.0}, steps)
    guidance = Guidance(scale, channels)
    scheduler = DDIMScheduler(clip_sample=False)  # DDPM's linear schedule, as DiT's
    scheduler.set_timesteps(steps)

    def walk_theirs() -> Tensor:
        state = noise
        for time in scheduler.timesteps:
            output = call_theirs(torch.cat([state, state]), time.expand(2 * batch).to(device))
            output = guidance.combine(*output.chunk(2))
            state = scheduler.step(output[:, : shape[0]], time, state).prev_sample
        return state

    def walk_ours() -> Tensor:
        indices = range(batch)
        return sample_latents(
            {"network": ours}, sampler, allocation, labels, guidance, 0, indices
        )  # fmt: skip

    tasks = {
        ("ours", "network, guided", variant): lambda: ours(x, one_t, both),
        ("diffusers", "network, guided", variant): lambda: call_theirs(x, t),
    }
    if scale != 1:
        tasks["ours", f"DDIM {steps} steps", variant] = walk_ours
        tasks["diffusers", f"DDIM {steps} steps", variant] = walk_theirs
    return tasks
