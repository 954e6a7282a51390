"""Compiling the networks of a run before it starts, apart from the time that its images take."""

import logging

import torch

import stitch
from models.compile import CompileError, compile_forward
from models.first_stage import FirstStage
from scripts import launch
from scripts.job import Job

log = logging.getLogger("compile")


def compile_networks(job: Job) -> float:
    """Compile what ``job`` evaluates, for its batch; return the seconds that took.

    Without a compiler it says so and the networks stay as they are.
    """
    zoo, seconds = job.zoo, {}
    try:
        for name, rows in sorted(_shapes(job)):
            x = torch.zeros(rows, *zoo.denoisers[name].spec.latent_shape, device=zoo.device)
            t = torch.full((1,), float(job.sampler.timesteps[0]), device=zoo.device)
            y = torch.zeros(rows, dtype=torch.int64, device=zoo.device)
            seconds[name, rows] = compile_forward(zoo.denoisers[name], x, t, y)
        if isinstance(zoo.first_stage, FirstStage):
            parts = x.new_zeros(job.batch_size, *x.shape[1:]).split(
                zoo.first_stage.decoded_at_once(x.shape[1:])
            )
            for latents in {len(part): part for part in parts}.values():
                seconds["first-stage", len(latents)] = compile_forward(zoo.first_stage, latents)
    except CompileError as error:
        if launch.is_main():
            log.warning("compile=true is left out, the networks run uncompiled: %s", error)
    total = sum(seconds.values())
    if launch.is_main() and seconds:
        log.info("compiled %d networks and batch sizes in %.1f s", len(seconds), total)
    return total


def _shapes(job: Job) -> set[tuple[str, int]]:
    """Denoiser and rows of every call; one that guides itself takes both halves at once."""
    log_snr = job.sampler.schedule.log_snr(job.sampler.timesteps)
    shapes = set()
    for names in stitch.evaluations(job.allocation, job.guidance, log_snr):
        both = len(names) == 2 and names[0] == names[1]
        shapes |= {(name, job.batch_size * (2 if both else 1)) for name in names}
    return shapes
