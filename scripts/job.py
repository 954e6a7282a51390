"""From a config to everything one run needs, all of it checked before anything expensive."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

import models
import samplers
import stitch
from eval.results import content_hash
from eval.shards import ShardFolder
from samplers.noise import random_labels
from scripts import launch
from scripts.cli import UserError
from stitch.sampling import check_labels
from stitch.trajectory import check_fit


@dataclass(frozen=True, eq=False)
class Job:
    """One run, ready to be sampled.

    Attributes:
        zoo, sampler, allocation, guidance: what is sampled with what.
        run: everything that determines the pixels, as plain data; its content hash names it.
        label_rule: ``random``, ``balanced`` or a list of classes.
        num_images, batch_size: how many images, and how many are computed together.
        samples: the folder of the images.
    """

    zoo: models.Zoo
    sampler: object
    allocation: stitch.Allocation
    guidance: samplers.Guidance
    run: dict
    label_rule: str | list[int]
    num_images: int
    batch_size: int
    samples: ShardFolder

    def labels(self, indices: range) -> list[int]:
        """The labels of global sample indices."""
        if self.label_rule == "random":
            return random_labels(self.run["seed"], indices, self.zoo.num_classes).tolist()
        if self.label_rule == "balanced":
            return [index % self.zoo.num_classes for index in indices]
        return [self.label_rule[index % len(self.label_rule)] for index in indices]

    def cost(self) -> dict[str, float]:
        """What one image costs: network evaluations, multiply-accumulates of the networks."""
        evaluations = 1 if self.guidance.scale == 1 else 2
        macs = {name: self.zoo.macs(name) for name in self.allocation.denoisers}
        return {
            "nfe": evaluations * len(self.allocation),
            "macs_per_image": evaluations * self.allocation.cost(macs),
        }


def create(config: DictConfig, zoo: models.Zoo) -> Job:
    """Check ``config`` (see ``configs/sample.yaml``) and build its run.

    Raises:
        ValueError: naming the setting, its value and the fix.
    """
    sampler = samplers.create(schedule=zoo.schedule, **OmegaConf.to_container(config.sampler))
    allocation = stitch.Allocation.from_fractions(fractions(config, zoo), config.sampler.steps)
    channels = config.guidance.channels
    if channels is None:
        channels = zoo.guidance_channels
    guidance = samplers.Guidance(_number(config, "guidance.scale"), channels)
    label_rule = _label_rule(config.labels, zoo.num_classes)
    _whole(config, "seed", 0)
    for setting in ("num_images", "batch_size", "shard_size"):
        _whole(config, setting, 1)
    if config.shard_size % config.batch_size:
        raise UserError(
            f"shard_size={config.shard_size} must be a multiple of batch_size={config.batch_size}"
        )
    check_fit(zoo.denoisers, allocation, config.sampler.steps)
    run = {
        "zoo": zoo.name,
        "weights": zoo.weights_sha256(allocation.denoisers),
        "sampler": OmegaConf.to_container(config.sampler),
        "allocation": str(allocation),
        "guidance": {"scale": guidance.scale, "channels": guidance.channels},
        "labels": label_rule,
        "seed": config.seed,
        "dtype": str(zoo.dtype).removeprefix("torch."),
    }
    path = config.get("samples") or Path(config.runs) / "samples" / content_hash(run)
    return Job(
        zoo,
        sampler,
        allocation,
        guidance,
        run,
        label_rule,
        config.num_images,
        config.batch_size,
        ShardFolder(path, run, config.shard_size),
    )


def fractions(config: DictConfig, zoo: models.Zoo) -> dict[str, float]:
    """Denoiser name -> fraction, from the ``allocation`` group.

    Raises:
        UserError: if the numbers of denoisers and of fractions differ.
    """
    group, known = config.allocation, list(zoo.denoisers)
    values = group.fractions
    if values is None:
        small = _number(config, "allocation.small")
        if not 0 <= small <= 1:
            raise UserError(f"allocation.small={small:g} must be between 0 and 1")
        values = [small, 1 - small]
    if any(not isinstance(value, int | float) for value in values):
        raise UserError(f"allocation.fractions={list(values)} must be numbers")
    names = group.denoisers
    if names is None:
        names = known if len(values) == len(known) else [known[0], known[-1]]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(
            f"allocation.denoisers: zoo {zoo.name} has no {', '.join(unknown)}; "
            f"known: {', '.join(known)}"
        )
    if len(names) != len(values) or len(set(names)) != len(names):
        raise UserError(
            f"allocation.fractions={list(values)} needs one different denoiser for each value, "
            f"allocation.denoisers={list(names)}"
        )
    return dict(zip(names, values, strict=True))


def _number(config: DictConfig, setting: str) -> float:
    value = OmegaConf.select(config, setting)
    if not isinstance(value, int | float):
        raise UserError(f"{setting}={value} must be a number")
    return float(value)


def _whole(config: DictConfig, setting: str, smallest: int) -> None:
    value = config[setting]
    if not isinstance(value, int) or value < smallest:
        raise UserError(f"{setting}={value} must be a whole number, {smallest} or more")


def _label_rule(rule, num_classes: int) -> str | list[int]:
    if rule in ("random", "balanced"):
        return rule
    if isinstance(rule, str):
        raise UserError(f"labels={rule} is unknown; known: random, balanced, or a list of classes")
    labels = [rule] if isinstance(rule, int) else [int(label) for label in rule]
    if not labels:
        raise UserError("labels=[] is empty; give at least one class")
    check_labels(labels, num_classes)
    return labels


def load_zoo(config: DictConfig, device: torch.device) -> models.Zoo:
    """The zoo of the composed config (``configs/zoo/NAME.yaml`` with the command's overrides)."""
    return models.Zoo(config.zoo, device, launch.dtype(config.precision, device))


def with_images(job: Job, num_images: int) -> Job:
    """The same run, of another number of images."""
    return dataclasses.replace(job, num_images=num_images)
