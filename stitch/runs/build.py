"""Build a run from a config, checked as a whole before anything expensive."""

import dataclasses
import functools
import math
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

import models
import samplers
import stitch
from models import cards
from models.classes import Classes
from models.errors import InputError
from models.weights import CheckpointError
from stitch import intervals
from stitch.rules import Request, allocate
from stitch.runs import devices, spacing
from stitch.runs.batch_size import automatic
from stitch.runs.records import content_hash
from stitch.runs.run import Run
from stitch.runs.shards import ShardFolder
from stitch.trajectory import check_fit


def create(config: DictConfig, zoo: models.Zoo, planning: bool = False, probe: bool = False) -> Run:
    """Check that the settings of ``config`` fit together, and build its run.

    Args:
        config: see ``configs/sample.yaml``; every setting is what ``scripts.schema`` says.
        planning: whether weights may be missing. Such a run can be counted, but not sampled.
        probe: whether ``batch_size=auto`` may measure a GPU's memory, by all ranks together.

    Raises:
        InputError: naming the setting, its value and the fix.
    """
    sampler, chosen = create_sampler(config, zoo)
    allocation = allocate(Request(config.allocation, zoo, sampler))
    guidance = _guidance(config, zoo)
    label_rule = _label_rule(config.labels, zoo.classes)
    auto = config.batch_size == "auto"
    if not auto and config.shard_size % config.batch_size:
        raise InputError(
            f"shard_size={config.shard_size} must be a multiple of batch_size={config.batch_size}"
        )
    check_fit(zoo.specs, allocation, len(sampler.timesteps), guidance, sampler.schedule)
    log_snr = sampler.schedule.log_snr(sampler.timesteps)
    walked = stitch.evaluations(allocation, guidance, log_snr)
    networks = list(dict.fromkeys(name for step in walked for name in step))
    aligned = config.alignment == "log-snr"
    intervals.warn_outside(zoo.specs, walked, sampler.schedule, sampler.timesteps, aligned)
    cache = _cache(config, zoo, walked)
    if not allocation.switches and "history" in chosen:
        chosen["history"] = "keep"  # no other denoiser's history to restart from
    guidance_settings = {
        # As JSON returns it: in lists, and null for an interval's infinite end.
        name: [end if math.isfinite(end) else None for end in value]
        if isinstance(value, tuple)
        else value
        for name, value in dataclasses.asdict(guidance).items()
    }
    foreign = [n for n in networks if zoo.specs[n].schedule != sampler.schedule.name]
    settings = {
        "zoo": zoo.name,
        "weights": _weights_sha256(zoo, networks, planning),
        "schedule": sampler.schedule.name,
        "sampler": chosen,
        "allocation": str(allocation),
        "alignment": config.alignment if foreign else "log-snr",  # nothing to align
        "guidance": guidance_settings,
        "labels": label_rule,
        "seed": config.seed,
        "dtype": str(zoo.dtype).removeprefix("torch."),
        "quantisation": zoo.quantisation,
    }
    # Runs without one of these are named as they were before there were any.
    if cache:
        settings["cache"] = dataclasses.asdict(cache)
    if changed := cards.changes(zoo, networks):
        settings["card"] = changed
    path = config.get("samples") or Path(config.runs) / "samples" / content_hash(settings)
    batch_size = automatic(zoo, path, config.shard_size, probe) if auto else config.batch_size
    return Run(
        zoo,
        sampler,
        allocation,
        guidance,
        config.alignment,
        settings,
        label_rule,
        config.num_images,
        batch_size,
        ShardFolder(path, settings, config.shard_size, batch_size if auto else None),
        config.compile,
        cache,
    )


def create_sampler(config: DictConfig, zoo: models.Zoo) -> tuple[samplers.Sampler, dict]:
    """The sampler of ``config``, and its settings with a file's timesteps in the file's place.

    Raises:
        InputError: naming the setting, its value and the fix.
    """
    chosen, schedule = OmegaConf.to_container(config.sampler), config.schedule or zoo.schedule
    file = chosen.get("spacing")
    if not spacing.names_file(file):
        return samplers.create(schedule=schedule, **chosen), chosen
    samplers.create(schedule=schedule, **{**chosen, "spacing": None})  # whether the rest is right
    chosen["spacing"] = spacing.read(file)
    try:
        return samplers.create(schedule=schedule, **chosen), chosen
    except InputError as error:
        raise InputError(f"sampler.spacing={file}: {error}") from error


def _weights_sha256(zoo: models.Zoo, networks, planning: bool) -> dict[str, str] | None:
    try:
        return zoo.weights_sha256(networks, recorded=planning)
    except CheckpointError:
        if planning:
            return None
        raise


def _guidance(config: DictConfig, zoo: models.Zoo) -> samplers.Guidance:
    group = config.guidance
    scale = float(group.scale)
    channels = zoo.guidance_channels if group.channels is None else group.channels
    if scale == 1:
        return samplers.Guidance(scale, channels)  # whatever the guide
    steps, log_snr = group.steps and tuple(group.steps), group.log_snr
    if log_snr is not None:
        low, high = log_snr
        log_snr = (-math.inf if low is None else low, math.inf if high is None else high)
    return samplers.Guidance(scale, channels, group.guide or zoo.unconditional, steps, log_snr)


def _cache(
    config: DictConfig, zoo: models.Zoo, walked: list[tuple[str, ...]]
) -> stitch.Forecast | None:
    if "ratio" in config.cache:
        raise InputError(
            f"cache.ratio={config.cache.ratio} (cache=tome) is for pipelines: scripts.text2image"
        )
    cache = stitch.Forecast(**config.cache)
    if cache.interval == 1:
        return None  # every step is evaluated in full, whatever else it says
    cache.check(zoo.specs, walked)
    return cache


def _label_rule(rule, classes: Classes) -> str | list[int]:
    if rule in ("random", "balanced"):
        return rule
    labels = list(rule) if OmegaConf.is_list(rule) else [rule]
    if not labels:
        raise InputError("labels=[] is empty; give at least one class, random or balanced")
    wrong = [label for label in labels if type(label) not in (int, str)]
    if wrong:
        raise InputError(f"labels={labels} must be whole numbers or names, {wrong[0]!r} is neither")
    return classes.indices(labels)


def unsampled(config: DictConfig) -> DictConfig:
    """``config`` for what stores no samples, and does not mind how those that are there were."""
    settings = OmegaConf.to_container(config, resolve=True)
    return OmegaConf.create({**settings, "samples": str(Path(config.runs) / "unsampled")})


def load_zoo(config: DictConfig, device: torch.device) -> models.Zoo:
    """The zoo of the composed config (``configs/zoo/NAME.yaml`` with the command's overrides).

    The points of a sweep share one, so that its networks are loaded once.
    """
    card = OmegaConf.to_yaml(config.zoo, resolve=True)
    dtype = devices.dtype(config.precision, device)
    return _zoo(card, device, dtype, config.quantisation, config.decoder)


@functools.cache
def _zoo(card: str, device, dtype, quantisation, decoder) -> models.Zoo:
    return models.Zoo(OmegaConf.create(card), device, dtype, quantisation, decoder)
