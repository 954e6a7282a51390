"""A text-to-image run: everything that determines its images, as one value."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

import samplers
from models.errors import InputError
from samplers.noise import generators
from stitch.allocation import Allocation
from stitch.runs import prompts
from stitch.runs.pipeline import LARGE, Pipeline
from stitch.runs.records import content_hash
from stitch.runs.run import timing_key
from stitch.runs.shards import ShardFolder


@dataclass(frozen=True)
class PipelineCache:
    """What saves a part of the denoisers' calls.

    Attributes:
        interval: every how many steps a U-Net is computed in full (DeepCache); 1: at all. What
            counts are places among the scheduler's timesteps; see ``stitch.pipelines.deep``.
        ratio: of the tokens that self-attention merges (ToMe); 0: none.
    """

    interval: int = 1
    ratio: float = 0.0

    def __str__(self) -> str:
        if self.ratio:
            return f"ToMe {self.ratio:g}"
        return f"in full every {self.interval} steps (deep cache)"

    def called(self, allocation: Allocation, timesteps: Sequence[float]) -> list[str]:
        """What is computed at every step: a denoiser, or ``NAME/deep`` of a part of it.

        Args:
            timesteps: the scheduler's.
        """
        called: list[str] = []
        for name, count in allocation.runs:
            # Of a timestep that is there twice, both steps count as its first place.
            places = [timesteps.index(t) for t in timesteps[len(called) : len(called) + count]]
            called += [
                name if (place - places[0]) % self.interval == 0 else f"{name}/deep"
                for place in places
            ]
        return called


@dataclass(frozen=True, eq=False)
class TextRun:
    """One run of a pipeline; ``create`` makes it from a config.

    What makes images, records and figures uses it as a ``stitch.runs.run.Run``; see there for what
    has no description here.

    Attributes:
        zoo: the pipeline.
        allocation: of the timesteps of its scheduler.
        guidance: its ``scale`` counts; 1 or less is unguided.
        settings: everything that determines the pixels, as plain data.
        prompts: image i has the prompt i, again from the first; empty if they are not known.
        problem: why a planned run cannot be made; empty if it can.
    """

    zoo: Pipeline
    allocation: Allocation
    guidance: samplers.Guidance
    settings: dict
    prompts: list[str]
    num_images: int
    batch_size: int
    samples: ShardFolder
    cache: PipelineCache | None = None
    problem: str = ""
    compile: bool = False

    @cached_property
    def id(self) -> str:
        return content_hash(self.settings)

    def one_batch(self, size: int) -> "TextRun":
        return dataclasses.replace(self, num_images=size, batch_size=size)

    @property
    def prefix_key(self) -> str:
        """Its own: no two runs share their beginnings."""
        return self.id

    @cached_property
    def timing_key(self) -> str:
        return timing_key({**self.settings, "decoder": self.zoo.decoder}, str(self.allocation))

    @cached_property
    def calls(self) -> list[tuple[str, ...]]:
        """What is computed at every step, twice where it is guided."""
        called = self.allocation.steps
        if self.cache:
            timesteps = self.zoo.timesteps(self.settings["sampler"]["steps"])
            called = self.cache.called(self.allocation, timesteps)
        guided = self.guidance.scale > 1 and self.zoo.card.guidance_embedding is None
        return [(name,) * (2 if guided else 1) for name in called]

    @cached_property
    def networks(self) -> list[str]:
        """The calls of denoisers for one image in order, each by its denoiser's name."""
        return [name.partition("/")[0] for step in self.calls for name in step]

    @cached_property
    def macs(self) -> dict[str, int]:
        """Multiply-accumulates of each of the ``calls`` for one image."""
        names = dict.fromkeys(name for step in self.calls for name in step)
        merged = "/tome" if self.cache and self.cache.ratio else ""
        return {name: self.zoo.macs(name + merged) for name in names}

    def cost(self) -> dict[str, float]:
        """Cost of one image: calls of denoisers, and their multiply-accumulates."""
        calls = [name for step in self.calls for name in step]
        return {"nfe": len(calls), "macs_per_image": sum(self.macs[name] for name in calls)}

    def labels(self, indices: Sequence[int]) -> list[int]:
        """The numbers of the prompts of global sample indices."""
        return [index % len(self.prompts) for index in indices]

    def images(self, indices: range) -> tuple[np.ndarray, list[int]]:
        """(B, H, W, C) uint8 images and B labels of global sample indices.

        An image depends on the run, its index and, by rounding, on the batch it is computed in.

        Raises:
            FloatingPointError: if the first stage decodes to anything but finite numbers.
        """
        from stitch.pipelines import stitch_pipeline

        labels, pipe = self.labels(indices), self.zoo.pipe
        card, options = self.zoo.card, OmegaConf.to_container(self.zoo.card.call)
        if self.zoo.controlnet:
            options["image"] = [self.zoo.control] * len(labels)
        others = {name: self.zoo.denoisers[name] for name in self.zoo.specs if name != LARGE}
        wrapped = {"deep": self.cache.interval if self.cache.interval > 1 else None,
                   "tome": self.cache.ratio or None} if self.cache else {}  # fmt: skip
        with stitch_pipeline(
            pipe, others, self.allocation, self.zoo.slot,
            guidance_embedding=card.guidance_embedding is not False, **wrapped,
        ):  # fmt: skip
            out = pipe(
                prompt=[self.prompts[label] for label in labels],
                height=card.size[0],
                width=card.size[1],
                num_inference_steps=self.settings["sampler"]["steps"],
                guidance_scale=self.guidance.scale,
                generator=generators(self.settings["seed"], indices),
                output_type="np",
                **options,
            )
        found = out.frames[:, 0] if "frames" in out else out.images  # the first frame of a film
        if not np.isfinite(found).all():
            raise FloatingPointError(f"images {list(indices)} of {self.zoo.name} are not finite")
        return (found * 255).round().astype(np.uint8), labels

    def launch(self, indices: range, wrappers: Sequence = ()) -> Callable[[], tuple]:
        """``images``, computed at once: diffusers waits for the device by itself."""
        made = self.images(indices)
        return lambda: made


def create(config: DictConfig, zoo: Pipeline, planning: bool = False) -> TextRun:
    """Check that the settings of ``config`` fit together, and build its run.

    Args:
        config: see ``configs/text2image.yaml``.
        planning: whether weights and prompts may be missing, and nothing is fetched. Such a run
            has a ``problem``: it can be counted, but not made.

    Raises:
        InputError: naming the setting, its value and the fix.
    """
    from stitch.pipelines.shares import RULES

    card = config.pipeline
    zoo.pipeline_class()  # whether there is one
    if config.shard_size % config.batch_size:
        raise InputError(
            f"shard_size={config.shard_size} must be a multiple of batch_size={config.batch_size}"
        )
    fractions = _fractions(config, list(zoo.specs))
    steps = len(zoo.timesteps(card.steps))
    allocation = Allocation.from_fractions(fractions, steps, RULES[config.rule])
    cache = _cache(config)
    problems: list[str] = []

    def known(find: Callable[[], Any]) -> Any:
        try:
            return find()
        except InputError as error:
            if not planning:
                raise
            problems.append(str(error))

    found = known(lambda: prompts.read(config.prompts or list(card.prompts))) or []
    control = known(zoo.control_sha256)
    weights = known(lambda: zoo.weights_sha256(allocation.denoisers, fetch=not planning))
    settings = {
        "zoo": zoo.name,
        "weights": None if problems else weights,
        "sampler": {**OmegaConf.to_container(card.scheduler), "steps": card.steps},
        "allocation": str(allocation),
        "guidance": {"scale": float(card.guidance), "embedding": card.guidance_embedding},
        "prompts": prompts.sha256(found),
        "size": list(card.size),
        "call": OmegaConf.to_container(card.call),
        "seed": config.seed,
        "dtype": str(zoo.dtype).removeprefix("torch."),
    }
    settings["sampler"]["name"] = card.scheduler.name.removesuffix("Scheduler")
    # Runs without one of these are named as they were before there were any.
    if card["class"]:
        settings["class"] = card["class"]
    if zoo.slot != "unet":
        settings["slot"] = zoo.slot
    if control:
        settings["control"] = control
    if cache:
        settings["cache"] = {"interval": cache.interval, "ratio": cache.ratio}
    path = config.get("samples") or Path(config.runs) / "samples" / content_hash(settings)
    return TextRun(
        zoo,
        allocation,
        samplers.Guidance(float(card.guidance)),
        settings,
        found,
        config.num_images or max(1, len(found)),
        config.batch_size,
        ShardFolder(
            path, settings, config.shard_size, notes={prompts.FILE: prompts.encoded(found)}
        ),
        cache,
        "; ".join(problems),
    )


def _fractions(config: DictConfig, names: list[str]) -> dict[str, float]:
    """Denoiser -> share of the steps."""
    shares = config.shares
    if OmegaConf.is_list(shares):
        if len(shares) != len(names):
            raise InputError(
                f"shares={list(shares)} must be {len(names)}, of {', '.join(names)} of "
                f"pipeline={config.pipeline.name}, or the share of the first alone"
            )
        return dict(zip(names, shares, strict=True))
    if len(names) != 2:
        raise InputError(
            f"shares={shares} is for a pipeline of two denoisers; pipeline={config.pipeline.name} "
            f"has {len(names)}: give the share of each, shares=[...] of {', '.join(names)}"
        )
    return dict(zip(names, (shares, 1 - shares), strict=True))


def _cache(config: DictConfig) -> PipelineCache | None:
    cache = config.cache
    ratio = float(cache.get("ratio", 0))
    if cache.interval > 1 and cache.get("order"):
        raise InputError(
            f"cache.order={cache.order} is for scripts.sample; pipelines hold what was computed "
            "last: cache=deep, or merge tokens: cache=tome"
        )
    if cache.interval == 1 and not ratio:
        return None
    return PipelineCache(cache.interval, ratio)


def warn_of_long_prompts(run: TextRun) -> None:
    """Say which prompts are longer than the text encoders read, once for all.

    The libraries say so at every batch; they are silenced.
    """
    import diffusers

    pipe = run.zoo.pipe
    diffusers.utils.logging.set_verbosity_error()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    tokenizers = [getattr(pipe, name, None) for name in ("tokenizer", "tokenizer_2")]
    prompts.warn_of_long([one for one in tokenizers if one is not None], run.prompts)
