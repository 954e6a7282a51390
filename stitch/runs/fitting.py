"""Timesteps of a run's sampler, fitted to a many-step trajectory of the same images."""

import time
from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

import models
import samplers
from models.errors import InputError
from stitch.runs import build, devices, provenance
from stitch.runs.run import Run
from stitch.timesteps import fit_timesteps, refuse_noise, relative_error


def fit(config: DictConfig, zoo: models.Zoo, report: Callable[[str], None]) -> dict:
    """Fit the timesteps of ``config``'s sampler; see ``stitch.timesteps``.

    The target is the same sampler with its default spacing, in ``reference_steps`` steps of the
    same denoisers: an allocation by a rule is made anew for those. The errors of another seed's
    images, which were not fitted to, say what the result is worth.

    Args:
        config: see ``configs/timesteps.yaml``.
        report: called with lines about the progress.

    Returns:
        ``timesteps`` and the facts about them, as plain data.

    Raises:
        InputError: naming the setting, its value and the fix.
    """
    run = build.create(_variant(config), zoo)
    refuse_noise(run.sampler)
    if config.guidance.steps is not None and run.guidance.scale != 1:
        raise InputError(
            f"guidance.steps={config.guidance.steps} are not the reference's steps; choose noise "
            "levels with guidance.log_snr"
        )
    dense = {"steps": config.reference_steps, "spacing": type(run.sampler).default_spacing}
    reference = build.create(_variant(config, **dense), zoo)
    held_out = {"seed": (config.seed + 1) % 2**64}
    began, spent = time.monotonic(), 0

    def latents(run: Run) -> Tensor:
        nonlocal spent
        spent += len(run.networks) * config.batch_size
        return run.walk(range(config.batch_size)).cpu()

    def walk(timesteps: list, **other) -> Tensor:
        return latents(build.create(_variant(config, other, spacing=timesteps), zoo))

    def improved(error: float, timesteps: list) -> None:
        numbers = " ".join(f"{t:.4g}" for t in timesteps)
        report(f"{spent:11,} evaluations: error {error:.4f} with {numbers}")

    report(f"matching {reference.allocation}, the latents of {config.batch_size} images")
    target = latents(reference).double()
    start = samplers.timesteps_of(run.sampler)
    last_is_free = start[-1] in run.sampler.timesteps
    fitted = fit_timesteps(
        walk, target, start, run.sampler.schedule, last_is_free, config.iterations, improved
    )
    errors = {"before": relative_error(walk(start), target)}
    errors["after"] = relative_error(walk(fitted), target)
    target = latents(build.create(_variant(config, held_out, **dense), zoo)).double()
    others = {"before": relative_error(walk(start, **held_out), target)}
    others["after"] = relative_error(walk(fitted, **held_out), target)
    return {
        "timesteps": fitted,
        "start": start,
        "error": errors,
        "held_out_error": others,
        "images": config.batch_size,
        "reference_steps": config.reference_steps,
        "evaluations": spent,
        "seconds": round(time.monotonic() - began, 1),
        "run": run.settings,
        "device": devices.name(zoo.device),
        "commit": provenance.commit(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _variant(config: DictConfig, other: dict | None = None, **sampler) -> DictConfig:
    """``config`` with ``other`` settings and other ones of the sampler; it stores no samples."""
    settings = OmegaConf.to_container(config, resolve=True)
    settings |= {"samples": str(Path(config.runs) / "unsampled"), **(other or {})}
    settings["sampler"] |= sampler
    return OmegaConf.create(settings)
