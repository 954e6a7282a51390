"""Warm-up before a run's first image: load its networks and compile them if asked to."""

import logging

import torch
from torch import Tensor, nn

from models.compile import CompileError, compile_forward, compile_method
from models.first_stage import FirstStage
from stitch.runs import distributed
from stitch.runs.run import Run

log = logging.getLogger("compile")


def load(run: Run) -> None:
    """Load the run's networks, unless they are loaded."""
    for name in dict.fromkeys(run.networks):
        run.zoo.denoisers[name]


def prepare(run: Run) -> None:
    """Load the run's networks and compile them if ``run.compile``, so that neither is timed."""
    load(run)
    if run.compile:
        compile_networks(run)


def compile_networks(run: Run) -> float:
    """Compile the networks of ``run`` for a full batch; return the seconds it took.

    Without a compiler, it logs a warning and leaves the networks unchanged.
    """
    zoo, seconds = run.zoo, {}
    try:
        for name, rows in sorted(_shapes(run)):
            x = torch.zeros(rows, *zoo.denoisers[name].spec.latent_shape, device=zoo.device)
            t = torch.full((1,), float(run.sampler.timesteps[0]), device=zoo.device)
            y = torch.zeros(rows, dtype=torch.int64, device=zoo.device)
            seconds[name, rows] = _compile(zoo.denoisers[name], (x, t, y), run.cache is not None)
        if isinstance(zoo.first_stage, FirstStage):
            parts = x.new_zeros(run.rows, *x.shape[1:]).split(
                zoo.first_stage.decoded_at_once(x.shape[1:])
            )
            for latents in {len(part): part for part in parts}.values():
                seconds["first-stage", len(latents)] = compile_forward(zoo.first_stage, latents)
    except CompileError as error:
        if distributed.is_main():
            log.warning("compile=true is ignored, the networks run uncompiled: %s", error)
    total = sum(seconds.values())
    if distributed.is_main() and seconds:
        log.info("compiled %d networks and batch sizes in %.1f s", len(seconds), total)
    return total


@torch.no_grad()
def _compile(denoiser: nn.Module, inputs: tuple[Tensor, Tensor, Tensor], cached: bool) -> float:
    """Compile what a walk calls of a denoiser; return the seconds it took."""
    if not cached:
        return compile_forward(denoiser, *inputs)
    seconds = compile_method(denoiser, "evaluate", *inputs)
    _, kept = denoiser.evaluate(*inputs)
    return seconds + compile_method(denoiser, "reuse", kept, *inputs)


def _shapes(run: Run) -> set[tuple[str, int]]:
    """Denoiser and rows of every network call; a self-guided one takes both halves at once."""
    shapes = set()
    for names in run.evaluations:
        both = len(names) == 2 and names[0] == names[1]
        shapes |= {(name, run.rows * (2 if both else 1)) for name in names}
    return shapes
