"""Measure images against a reference, alone or by many processes, into an immutable record."""

import contextlib
import functools
import importlib.metadata
import math
import platform
import time
from collections.abc import Sequence

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from eval.extraction import Pass, Seen
from eval.features import create_extractor, find_weights, known_metrics
from eval.images import Images, ShardImages, warnings
from eval.metrics import METRICS, WITH_PROMPTS, Inputs, compute, too_few
from eval.prepare import PREPARATIONS
from eval.prompts import named_classes
from eval.reference import Reference
from eval.reference_source import ReferenceSource
from models.errors import InputError
from models.weights import recorded_sha256
from stitch.runs import devices, distributed, provenance
from stitch.runs.records import ResultStore, content_hash
from stitch.runs.shards import ShardFolder

PACKAGES = ("torch", "torchvision", "torch-fidelity", "numpy", "scipy")


class Evaluator:
    """Measures images against one reference, by all ranks together.

    Args:
        evaluation: the config group ``eval``.
        device: where features are computed.

    Raises:
        InputError: if a metric is unknown, the extractor or the reference is missing, or they do
            not fit one another.
    """

    def __init__(self, evaluation: DictConfig, device: torch.device):
        self.config, self.device = evaluation, device
        known = known_metrics(evaluation.extractor)
        unknown = [name for name in evaluation.metrics if name not in known]
        if unknown:
            raise InputError(
                f"eval.metrics: {', '.join(unknown)} unknown to the extractor "
                f"{evaluation.extractor}; known: {', '.join(known)}"
            )
        weights = find_weights(evaluation.weights, evaluation.url)
        self.weights_sha256 = recorded_sha256(weights)
        self._source = ReferenceSource(evaluation, self.weights_sha256)
        self.extractor = create_extractor(
            evaluation.extractor, weights, device, evaluation.get("clip")
        )

    @property
    def chunk(self) -> int | None:
        """Images in a chunk of the Inception Score, if that is wanted."""
        return self.config.chunk if "is" in self.config.metrics else None

    @functools.cached_property
    def reference(self) -> Reference:
        """Read, or extracted by all ranks, when it is needed first."""
        return self._source.read(self.extractor)

    def protocol(self, num_images: int) -> dict:
        """Everything but the run that determines the metrics, as plain data."""
        return {
            "num_images": num_images,
            "extractor": self.config.extractor,
            "extractor_sha256": self.weights_sha256,
            "reference_sha256": self._source.sha256,
            "neighbours": self.config.neighbours,
            "chunk": self.config.chunk,
            "distances": self.config.distances,
            # Evaluations without them are named as they were before there were any.
            **({"prepare": self.config.prepare} if self.config.get("prepare") else {}),
            **({"words": content_hash({"words": self.words})} if self.words else {}),
            **({"clip": self.extractor.clip_identity} if "clip" in self.config.metrics else {}),
        }

    @property
    def words(self) -> list[list[str]]:
        """What prompts call the classes, if that is wanted."""
        wanted = "agreement" in self.config.metrics
        return OmegaConf.to_container(self.config.words) if wanted else []

    def record(
        self,
        images: Images | ShardFolder,
        num_images: int,
        store: ResultStore,
        cost: dict | None = None,
    ) -> dict:
        """The record of the first ``num_images`` images: from the store, or made and stored.

        To be called by all ranks. The images of a run are read once: what verifies and hashes them
        is the pass that extracts their features. A file that is missing or damaged ends it before
        there is a number.

        Args:
            cost: facts for the record about what the sampling cost.

        Raises:
            InputError: if images are missing or unfit, or a stored record lacks a metric.
        """
        if isinstance(images, ShardFolder):
            images = ShardImages(images)
        self.check(images, num_images)
        if images.run is None:
            distributed.from_main(lambda: images.require(num_images))
            sha256 = distributed.from_main(lambda: images.sha256(num_images))
            run = hashes = {"images_sha256": sha256}
        else:
            distributed.from_main(lambda: images.look(num_images))
            run, hashes = images.run, {}
        protocol = self.protocol(num_images)
        stored = distributed.from_main(lambda: store.get(run, protocol))
        if stored is not None:
            if reason := self.lacking(stored, store):
                raise InputError(reason)
            if images.run is not None:
                distributed.from_main(lambda: images.require(num_images))
            return stored
        seen = self.start(images, num_images).whole()
        if seen is not None:
            self.add(images, num_images, seen, store, cost, hashes)
        return distributed.from_main(lambda: store.get(run, protocol))

    def lacking(self, record: dict, store: ResultStore) -> str | None:
        """What is wrong if a stored record lacks a metric that is wanted."""
        names = [name for name in self.config.metrics if name not in record["metrics"]]
        if not names:
            return None
        return (
            f"{store.path(record['run'], record['protocol'])} has no {', '.join(names)}, and "
            "records are immutable; choose another folder with runs=FOLDER or move the record away"
        )

    def add(
        self,
        images: Images,
        num_images: int,
        seen: Seen,
        store: ResultStore,
        cost: dict | None = None,
        facts: dict | None = None,
    ) -> None:
        """Store the record of images that were ``seen``; for the main rank.

        Args:
            cost: facts for the record about what the sampling cost.
            facts: others, about the images, for its provenance.
        """
        started = time.perf_counter()
        values = self._metrics(images, num_images, seen)
        hashes = {**(facts or {}), **seen.hashes}
        timings = [] if images.run is None else images.timings()
        sampled_by = sorted({one["commit"] for one in timings if "commit" in one})
        record = {
            "run": images.run or {"images_sha256": hashes["images_sha256"]},
            "protocol": self.protocol(num_images),
            "metrics": values,
            "cost": {**(cost or {}), **sampling_time(timings)},
            "provenance": {
                **hashes,
                **({"sampled_by": sampled_by} if sampled_by else {}),
                "evaluation_seconds": round(seen.seconds + time.perf_counter() - started, 2),
                "evaluation_device": devices.name(self.device),
                "processes": distributed.world_size(),
                "python": platform.python_version(),
                **{name: importlib.metadata.version(name) for name in PACKAGES},
                "torch": torch.__version__,
                "commit": provenance.commit(),
                "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            },
        }
        if doubts := warnings(images, num_images, self.chunk):
            record["provenance"]["warnings"] = doubts
        try:
            with contextlib.suppress(FileExistsError):  # another sweep was faster
                store.add(record)
        except OSError as error:
            numbers = ", ".join(f"{name} {value:.6g}" for name, value in values.items())
            raise InputError(
                f"the record of {images.path} cannot be stored in {store.folder} "
                f"({error.strerror}); make room and evaluate again. It is: {numbers}"
            ) from error

    def start(self, images: Images, num_images: int) -> Pass:
        """The pass that takes what the metrics need of the first ``num_images`` images.

        To be called by all ranks.
        """
        if distributed.is_main():
            self.check(images, num_images)
        reference = self.reference
        kinds = sorted({METRICS[name].features for name in self.config.metrics})
        return Pass(
            self.extractor,
            images,
            num_images,
            self.config.batch_size,
            kinds,
            lambda found: self._source.check_dimensions(found, reference),
            prepare=PREPARATIONS[self.config.get("prepare")],
        )

    def measure(self, images: Images, num_images: int) -> dict[str, float] | None:
        """The metrics of the first ``num_images`` images, for the main rank; None for others.

        To be called by all ranks.
        """
        seen = self.start(images, num_images).whole()
        return None if seen is None else self._metrics(images, num_images, seen)

    def _metrics(self, images: Images, num_images: int, seen: Seen) -> dict[str, float]:
        reference = self.reference
        # Logits stay: their score needs float64, which Apple GPUs lack, and no time.
        found = {
            kind: rows if kind == "logits" else rows.to(self.device)
            for kind, rows in seen.features.items()
        }
        features = reference.features
        inputs = Inputs(
            found,
            reference.moments,
            None if features is None else features.to(self.device),
            neighbours=self.config.neighbours,
            chunk=self.config.chunk,
            distances=self.config.distances,
            rows=self.config.rows,
            **self._of_prompts(self._prompts(images, num_images)),
        )
        values = compute(self.config.metrics, inputs)
        for name, value in values.items():
            if not math.isfinite(value):
                raise InputError(
                    f"{name} of {num_images} images of {images.path} against reference="
                    f"{self._source.path} is {value}: it cannot be computed from them"
                )
        return values

    def _prompts(self, images: Images, num_images: int) -> list[str]:
        """The prompts of images; empty if no metric needs them."""
        names = [name for name in self.config.metrics if METRICS[name].kind in WITH_PROMPTS]
        if not names:
            return []
        prompts = None if images.run is None else images.prompts(num_images)
        if prompts is None:
            raise InputError(
                f"samples={images.path} have no prompts, which {', '.join(names)} need; leave "
                "them out of eval.metrics, or sample with scripts.text2image"
            )
        return prompts

    def _of_prompts(self, prompts: list[str]) -> dict[str, Tensor]:
        """What metrics compare the images with instead of a reference."""
        kinds = {METRICS[name].kind for name in self.config.metrics}
        found = {}
        if "classes" in kinds:
            found["classes"] = named_classes(prompts, self.words)
        if "prompts" in kinds:
            found["prompts"] = self.extractor.of_prompts(prompts)
        return found

    def check(self, images: Images, num_images: int) -> None:
        """Make sure that ``num_images`` are no more than there are to be, and enough.

        Raises:
            InputError: if they are not.
        """
        if not 1 <= num_images <= images.count:
            raise InputError(
                f"num_images={num_images}, but there are {images.count} images in {images.path}; "
                "ask for as many, or sample more"
            )
        few = too_few(num_images, self.config.metrics, self.config.neighbours)
        if few:
            raise InputError(f"num_images={num_images} of samples={images.path}: {few}")
        self._prompts(images, num_images)


def sampling_time(timings: Sequence[dict]) -> dict:
    """Milliseconds per image of one process, on what, and how they spread over the shards.

    The fastest shard is taken: whatever else runs on a machine can only add to it. The others are
    those made as it was: a run may be resumed on another machine, or in other batches. Shards whose
    trajectories shared their beginnings with another run's say nothing of the time of this one.

    Args:
        timings: of a run's shards; see ``ShardFolder.log_timing``.
    """
    facts = {"seconds", "images", "batch_size", "device"}
    timings = [t for t in timings if facts <= t.keys() and t["images"] and not t.get("nfe_saved")]
    if not timings:
        return {}
    timings.sort(key=lambda t: t["seconds"] / t["images"])
    made = {name: timings[0][name] for name in ("batch_size", "device")}
    per_image = [1000 * t["seconds"] / t["images"] for t in timings if made.items() <= t.items()]
    return {
        "ms_per_image": round(per_image[0], 4),
        "ms_per_image_slowest": round(per_image[-1], 4),
        **made,
    }
