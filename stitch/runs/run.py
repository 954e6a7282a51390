"""A run: everything that determines its images, as one value."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

import models
import samplers
from models import cards, variants
from models.errors import InputError
from samplers.noise import random_labels
from samplers.sampler import Denoise
from stitch.allocation import Allocation
from stitch.cache import Forecast, forecast_of
from stitch.runs import devices, memory
from stitch.runs.records import content_hash
from stitch.runs.shards import ShardFolder
from stitch.sampling import Walk, decoded, launch_latents, stitched
from stitch.trajectory import Wrapper, evaluations
from stitch.transfer import Arriving, onto


@dataclass(frozen=True, eq=False)
class Run:
    """One run, ready to be sampled; ``stitch.runs.build`` makes it from a config.

    Attributes:
        zoo, sampler, allocation, guidance, alignment: what is sampled with what.
        settings: everything that determines the pixels, as plain data.
        label_rule: ``random``, ``balanced`` or a list of classes.
        num_images, batch_size: how many images, and how many are computed together.
        samples: the folder of the images.
        compile: whether networks are compiled first; it changes rounding only.
        cache: what forecasts most steps, if anything does.
    """

    zoo: models.Zoo
    sampler: samplers.Sampler
    allocation: Allocation
    guidance: samplers.Guidance
    alignment: str
    settings: dict
    label_rule: str | list[int]
    num_images: int
    batch_size: int
    samples: ShardFolder
    compile: bool = False
    cache: Forecast | None = None

    @cached_property
    def id(self) -> str:
        """Name of the run: the hash of what determines its pixels."""
        return content_hash(self.settings)

    @property
    def rows(self) -> int:
        """How many images a full batch has: fewer than ``batch_size`` if there are fewer."""
        return min(self.batch_size, self.num_images)

    def one_batch(self, size: int) -> "Run":
        """This run with ``size`` images in one batch: what a measurement computes over and over."""
        return dataclasses.replace(self, num_images=size, batch_size=size)

    @cached_property
    def timing_key(self) -> str:
        """Hash of what determines the time per image; see the function ``timing_key``."""
        # The settings identify a decoder by its weights.
        return timing_key({**self.settings, "decoder": self.zoo.decoder}, str(self.allocation))

    @cached_property
    def prefix_key(self) -> str:
        """Hash of what two runs must share for their trajectories to begin alike.

        That is everything except the allocation and what follows from it.
        """
        own = ("allocation", "weights", "card", "sampler", "alignment")
        settings = {key: value for key, value in self.settings.items() if key not in own}
        # The full sampler, because settings omit what makes no difference to a single run.
        sampler = {
            field.name: getattr(self.sampler, field.name)
            for field in dataclasses.fields(self.sampler)
            if field.name != "schedule"
        }
        sampler |= {"name": type(self.sampler).__name__, "schedule": self.sampler.schedule.name}
        return content_hash(
            {
                **settings,
                "zoo": id(self.zoo),  # settings lack precision and card
                "sampler": sampler,
                "alignment": self.alignment,
                "sizes": [self.num_images, self.batch_size, self.samples.shard_size],
            }
        )

    @cached_property
    def evaluations(self) -> list[tuple[str, ...]]:
        """The denoisers evaluated at every step; see ``stitch.evaluations``."""
        log_snr = self.sampler.schedule.log_snr(self.sampler.timesteps)
        return evaluations(self.allocation, self.guidance, log_snr)

    @cached_property
    def calls(self) -> list[tuple[str, ...]]:
        """``evaluations``, with a cache its ``calls``: what the time of every step depends on."""
        return self.cache.calls(self.evaluations) if self.cache else self.evaluations

    @cached_property
    def networks(self) -> list[str]:
        """The full network calls for one image in order, each by its denoiser's name."""
        return [name for step in self.calls for name in step if name in self.zoo.specs]

    @cached_property
    def macs(self) -> dict[str, int]:
        """Multiply-accumulates of each of the ``calls`` for one image."""
        names = dict.fromkeys(self.networks)
        full = {name: self.zoo.macs(name) for name in names}
        if not self.cache:
            return full
        return full | {forecast_of(name): self.zoo.reuse_macs(name) for name in names}

    def cost(self) -> dict[str, float]:
        """Cost of one image: network evaluations (NFE) and the networks' multiply-accumulates.

        With a cache also how many evaluations it forecasts, which are not among the NFE.
        """
        calls = [name for step in self.calls for name in step]
        cost = {
            "nfe": len(self.networks),
            "macs_per_image": sum(self.macs[name] for name in calls),
        }
        if self.cache:
            cost["forecasts"] = len(calls) - len(self.networks)
        return cost

    def labels(self, indices: Sequence[int]) -> list[int]:
        """The labels of global sample indices."""
        if self.label_rule == "random":
            return random_labels(self.settings["seed"], indices, self.zoo.num_classes).tolist()
        if self.label_rule == "balanced":
            return [index % self.zoo.num_classes for index in indices]
        return [self.label_rule[index % len(self.label_rule)] for index in indices]

    def denoise(self, indices: Sequence[int]) -> Denoise:
        """``denoise`` of the samples ``indices``, without a sampler that walks it."""
        trajectory = stitched(*self._parts(indices))
        return self.cache.wrap(trajectory, trajectory) if self.cache else trajectory

    def walk(
        self,
        indices: Sequence[int],
        callback: Callable[..., None] | None = None,
        wrappers: Sequence[Wrapper] = (),
    ) -> Tensor:
        """Sample the latents of global sample indices.

        Args:
            indices: B of them, computed together.
            callback: see ``stitch.sample``.
            wrappers: layers between sampler and trajectory, the outermost last; around the cache.

        Returns:
            (B, C, H, W) latents, on the device of the zoo.

        Raises:
            InputError: if the batch does not fit into memory, naming a batch size that does.
            FloatingPointError: if a prediction is not finite.
        """
        with self._in_memory():
            walk = self._launched(indices, callback, wrappers)
        walk.check()
        return walk.latents

    def images(
        self, indices: range, wrappers: Sequence[Wrapper] = ()
    ) -> tuple[np.ndarray, list[int]]:
        """(B, H, W, C) uint8 images and B labels of global sample indices; see ``walk``."""
        return self.launch(indices, wrappers)()

    def launch(
        self, indices: range, wrappers: Sequence[Wrapper] = ()
    ) -> Callable[[], tuple[np.ndarray, list[int]]]:
        """Begin to compute ``images``; what it returns waits for them, and gives them."""
        # Compiled networks need full batches: the last one is padded, and the padding dropped.
        padded = range(indices.start, max(indices.stop, indices.start + self.rows))
        computed = padded if self.compile else indices
        with self._in_memory():
            walk = self._launched(computed, None, wrappers)
            images = Arriving(decoded(self.zoo, walk.latents)[: len(indices)])

        def wait() -> tuple[np.ndarray, list[int]]:
            walk.check()
            return images.wait().numpy(), self.labels(indices)

        return wait

    def _launched(
        self, indices: Sequence[int], callback: Callable[..., None] | None, wrappers
    ) -> Walk:
        """A walk that is not waited for; see ``walk``."""
        layers = [self.cache, *wrappers] if self.cache else wrappers
        return launch_latents(*self._parts(indices), callback=callback, wrappers=layers)

    def _parts(self, indices: Sequence[int]) -> tuple:
        """Arguments of ``stitch.sampling.stitched`` and ``launch_latents``."""
        labels = onto(torch.tensor(self.labels(indices)), self.zoo.device)
        return (
            self.zoo.denoisers,
            self.sampler,
            self.allocation,
            labels,
            self.guidance,
            self.settings["seed"],
            indices,
            self.alignment,
        )

    @contextlib.contextmanager
    def _in_memory(self) -> Iterator[None]:
        """Turn what happens where a batch does not fit into an error with a size that does."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise InputError(self._too_large()) from error

    def _too_large(self) -> str:
        """The error message for a batch that did not fit, with a size that does."""
        memory.release(self.zoo.device)
        names, kept = dict.fromkeys(self.networks), self.cache.order + 1 if self.cache else 0
        rows = min(memory.fitting(self.zoo, name, self.zoo.dtype, kept) for name in names)
        largest = rows if self.guidance.scale == 1 else rows // 2
        return (
            f"batch_size={self.batch_size} does not fit {devices.name(self.zoo.device)}; "
            f"{largest} does. Finished shards are kept"
        )


def timing_key(settings: dict, allocation: str) -> str:
    """Hash of what determines the time per image, of a run or of a latency file.

    Of the guidance scale only matters whether there is guidance, which takes twice the network
    evaluations: there is none at 1 or, in pipelines, less. Nor do the weights of a denoiser matter.

    Args:
        settings: a run's or a latency file's, with ``decoder``.
    """
    names = ("zoo", "sampler", "dtype", "quantisation", "decoder", "cache")
    of_pipelines = ("size", "call", "class", "slot")
    guidance, scale = settings["guidance"], settings["guidance"]["scale"]
    guided = scale > 1 if "embedding" in guidance else scale != 1  # of a pipeline or a zoo
    parts = {name: settings[name] for name in (*names, *of_pipelines) if name in settings}
    # A latency file has the places in a card that its allocations have together.
    networks = [*Allocation.parse(allocation).denoisers, guidance.get("guide") or ""]
    parts["card"] = {
        place: value
        for place, value in settings.get("card", {}).items()
        if cards.concerns(place, networks) or place.startswith(cards.DECODERS)
    }
    parts |= {"guidance": {**guidance, "scale": guided}, "allocation": variants.bases(allocation)}
    return content_hash(parts)
