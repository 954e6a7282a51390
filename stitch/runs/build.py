"""From a config to everything one run needs, all of it checked before anything expensive."""

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

import models
import samplers
import stitch
from eval.results import content_hash
from eval.shards import ShardFolder
from models.checkpoint import CheckpointError
from models.classes import Classes
from models.errors import InputError
from samplers.noise import random_labels
from scripts import launch
from stitch.trajectory import check_fit


@dataclass(frozen=True, eq=False)
class Job:
    """One run, ready to be sampled.

    Attributes:
        zoo, sampler, allocation, guidance, alignment: what is sampled with what.
        run: everything that determines the pixels, as plain data; its content hash names it.
        label_rule: ``random``, ``balanced`` or a list of classes.
        num_images, batch_size: how many images, and how many are computed together.
        samples: the folder of the images.
        compile: whether networks are compiled first; it changes rounding only.
    """

    zoo: models.Zoo
    sampler: object
    allocation: stitch.Allocation
    guidance: samplers.Guidance
    alignment: str
    run: dict
    label_rule: str | list[int]
    num_images: int
    batch_size: int
    samples: ShardFolder
    compile: bool = False

    def labels(self, indices: range) -> list[int]:
        """The labels of global sample indices."""
        if self.label_rule == "random":
            return random_labels(self.run["seed"], indices, self.zoo.num_classes).tolist()
        if self.label_rule == "balanced":
            return [index % self.zoo.num_classes for index in indices]
        return [self.label_rule[index % len(self.label_rule)] for index in indices]

    @property
    def networks(self) -> list[str]:
        """The denoisers evaluated for one image, in order, as often as they are."""
        return evaluated(self.sampler, self.allocation, self.guidance)

    def cost(self) -> dict[str, float]:
        """What one image costs: network evaluations, multiply-accumulates of the networks."""
        networks = self.networks
        return {
            "nfe": len(networks),
            "macs_per_image": sum(self.zoo.macs(name) for name in networks),
        }


def create(config: DictConfig, zoo: models.Zoo, planning: bool = False) -> Job:
    """Check that what ``config`` says fits together, and build its run.

    Args:
        config: see ``configs/sample.yaml``; every setting is what ``scripts.schema`` says.
        planning: whether weights may be missing. The run is then of no known weights: it can be
            counted, but not made.

    Raises:
        InputError: naming the setting, its value and the fix.
    """
    settings = OmegaConf.to_container(config.sampler)
    sampler = samplers.create(schedule=config.schedule or zoo.schedule, **settings)
    allocation = allocate(config, zoo, sampler)
    guidance = _guidance(config, zoo)
    label_rule = _label_rule(config.labels, zoo.classes)
    if config.shard_size % config.batch_size:
        raise InputError(
            f"shard_size={config.shard_size} must be a multiple of batch_size={config.batch_size}"
        )
    check_fit(zoo.specs, allocation, len(sampler.timesteps), guidance, sampler.schedule)
    networks = dict.fromkeys(evaluated(sampler, allocation, guidance))
    if not allocation.switches and "history" in settings:
        settings["history"] = "keep"  # no other denoiser's history to restart from
    guidance_settings = {
        name: list(value) if isinstance(value, tuple) else value  # as it is read back
        for name, value in dataclasses.asdict(guidance).items()
    }
    foreign = [n for n in networks if zoo.specs[n].schedule != sampler.schedule.name]
    run = {
        "zoo": zoo.name,
        "weights": _weights_sha256(zoo, networks, planning),
        "schedule": sampler.schedule.name,
        "sampler": settings,
        "allocation": str(allocation),
        "alignment": config.alignment if foreign else "log-snr",  # nothing to align
        "guidance": guidance_settings,
        "labels": label_rule,
        "seed": config.seed,
        "dtype": str(zoo.dtype).removeprefix("torch."),
        "quantisation": zoo.quantisation,
    }
    path = config.get("samples") or Path(config.runs) / "samples" / content_hash(run)
    return Job(
        zoo,
        sampler,
        allocation,
        guidance,
        config.alignment,
        run,
        label_rule,
        config.num_images,
        config.batch_size,
        ShardFolder(path, run, config.shard_size),
        config.compile,
    )


def _weights_sha256(zoo: models.Zoo, networks, planning: bool) -> dict[str, str] | None:
    try:
        return zoo.weights_sha256(networks)
    except CheckpointError:
        if planning:
            return None
        raise


def evaluated(sampler, allocation: stitch.Allocation, guidance: samplers.Guidance) -> list[str]:
    """The denoisers evaluated for one image, in order, as often as they are."""
    log_snr = sampler.schedule.log_snr(sampler.timesteps)
    steps = stitch.evaluations(allocation, guidance, log_snr)
    return [name for step in steps for name in step]


def allocate(config: DictConfig, zoo: models.Zoo, sampler) -> stitch.Allocation:
    """The ``allocation`` group's rule (see ``configs/allocation``) on the sampler's steps."""
    group, steps = config.allocation, len(sampler.timesteps)
    if group.rule == "runs":
        return stitch.Allocation.parse(group.runs)
    if group.rule == "decreasing_probability":
        names = _names(group, zoo, 2, "allocation.rule=decreasing_probability")
        return stitch.Allocation.decreasing_probability(*names, steps, group.seed)
    if group.rule == "switch_snr":
        log_snr = sampler.schedule.log_snr(sampler.timesteps)
        setting = f"allocation.switches={list(group.switches)}"
        names = _names(group, zoo, len(group.switches) + 1, setting)
        return stitch.Allocation.from_switch_snr(names, group.switches, log_snr)
    if group.rule == "threshold":
        return stitch.Allocation.from_threshold(
            fractions(config, zoo),
            sampler.timesteps,
            sampler.schedule.num_timesteps,
            group.strict,
        )
    rules = {
        "fractions": stitch.Allocation.from_fractions,
        "interleave": stitch.Allocation.interleave,
        "large_to_small": stitch.Allocation.large_to_small,
    }
    if group.rule not in rules:
        known = ", ".join([*rules, "threshold", "switch_snr", "decreasing_probability", "runs"])
        raise InputError(f"allocation.rule={group.rule} is unknown; known: {known}")
    return rules[group.rule](fractions(config, zoo), steps)


def fractions(config: DictConfig, zoo: models.Zoo) -> dict[str, float]:
    """Denoiser name -> fraction, from the ``allocation`` group.

    Raises:
        InputError: if the numbers of denoisers and of fractions differ.
    """
    group = config.allocation
    values = group.fractions
    if values is None:
        values = [group.small, 1 - group.small]
    names = _names(group, zoo, len(values), f"allocation.fractions={list(values)}")
    return dict(zip(names, values, strict=True))


def _names(group: DictConfig, zoo: models.Zoo, count: int, setting: str) -> list[str]:
    """``count`` denoisers, as ``setting`` needs: those that ``group`` names, or the zoo's usual."""
    known, usual = list(zoo.denoisers), zoo.default_denoisers
    names = group.denoisers
    if names is None:
        names = usual if count == len(usual) else [usual[0], usual[-1]]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(
            f"allocation.denoisers: zoo {zoo.name} has no {', '.join(unknown)}; "
            f"known: {', '.join(known)}"
        )
    if len(names) != count or len(set(names)) != len(names):
        raise InputError(
            f"{setting} needs {count} different denoisers, allocation.denoisers={list(names)}"
        )
    return list(names)


def _guidance(config: DictConfig, zoo: models.Zoo) -> samplers.Guidance:
    group = config.guidance
    scale = float(group.scale)
    channels = zoo.guidance_channels if group.channels is None else group.channels
    if scale == 1:
        return samplers.Guidance(scale, channels)  # whoever the guide would be
    intervals = {
        setting: tuple(group[setting])
        for setting in ("steps", "log_snr")
        if group[setting] is not None
    }
    return samplers.Guidance(scale, channels, group.guide or zoo.unconditional, **intervals)


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


def load_zoo(config: DictConfig, device: torch.device) -> models.Zoo:
    """The zoo of the composed config (``configs/zoo/NAME.yaml`` with the command's overrides).

    The points of a sweep get the same one: its networks are loaded once.
    """
    card = OmegaConf.to_yaml(config.zoo, resolve=True)
    dtype = launch.dtype(config.precision, device)
    return _zoo(card, device, dtype, config.quantisation, config.decoder)


@functools.cache
def _zoo(card: str, device, dtype, quantisation, decoder) -> models.Zoo:
    return models.Zoo(OmegaConf.create(card), device, dtype, quantisation, decoder)
