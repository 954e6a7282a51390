"""Training of a zoo's networks: from configs to trainings to finished weights."""

import copy
import functools
import logging
from collections.abc import Callable
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torchvision.utils import save_image

import models
from models.checkpoint import load_checkpoint
from models.errors import InputError
from models.training import augment, objectives
from models.training.loop import FREE, Training, check_same
from models.training.recipes import network_config
from models.training.snapshots import Snapshots
from models.weights import provenance, record_path, recorded_sha256, save_checkpoint
from samplers.objective import DenoiserObjective
from samplers.stitches import StitchesObjective
from stitch.runs import devices, distributed, latents, matmul
from stitch.runs.provenance import commit
from stitch.runs.tracking import metrics_logger

log = logging.getLogger("train")

# Networks that others are trained on, in this order; each is finished before the others begin. Once
# exported, they never change: networks trained on them would no longer fit.
FOUNDATIONS = ("classifier", "first-stage", "text-encoder")
# Kinds of what is trained on latents to predict noise, and the objective of each.
DENOISERS = {"denoiser": DenoiserObjective, "stitched": StitchesObjective}


class Workshop:
    """What the trainings of a zoo share: data, latents and finished networks.

    Args:
        config: ``configs/train.yaml``, composed.
        device: of networks and data.
        open_split: ``train`` or ``test`` -> that part of the zoo's data set.
    """

    def __init__(self, config: DictConfig, device: torch.device, open_split: Callable):
        self.config, self.device, self._open_split = config, device, open_split
        self.zoo_name = config.zoo.name
        self.export_folder = Path(config.export)
        self.commit = commit()
        self.dtype = devices.dtype(config.precision, device)
        if self.dtype == torch.float16:
            raise InputError(
                "precision=fp16 is for sampling, its gradients underflow; use bf16 or auto"
            )
        devices.warn_of_slow_products(self.dtype, device)
        self._loggers: dict[str, Callable[[dict, int], None]] = {}
        self.compile = device.type == "cuda" if config.compile is None else config.compile
        self.snapshots = Snapshots(config.train.snapshots or (), self.file)

    @functools.cached_property
    def data(self):
        """The training images; with ``data.latents`` what is encoded of them."""
        folder = self.config.data.latents
        if folder is None:
            return self._open_split("train")
        return latents.EncodedData(folder, self.encoder_sha256(), self.device)

    @functools.cached_property
    def test(self):
        return self._open_split("test")

    @functools.cached_property
    def latents(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Means and deviations (M, N, c, h, w) of the training latents; M is 2 with flips."""
        if self.config.data.latents is not None:
            return self.data.mean, self.data.std
        return self._encode(self.data.images)

    @functools.cached_property
    def test_latents(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self._encode(self.test.images)

    def _encode(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        stage = self.finished("first-stage")
        images = images.to(self.device)
        versions = [images, images.flip(-1)] if self.config.zoo.get("flips", False) else [images]
        pairs = [objectives.posteriors(stage, version) for version in versions]
        return tuple(torch.stack(parts) for parts in zip(*pairs, strict=True))

    def file(self, name: str) -> Path:
        return self.export_folder / f"{name}.safetensors"

    def start(self, name: str) -> Path:
        """The weights that a training starts from: published ones, or exported ones."""
        published = self.config.zoo.get("files", {}).get(name)
        return self.export_folder / published.path if published else self.foundation(name)

    def foundation(self, name: str) -> Path:
        """The file of an exported network that others are trained on.

        Raises:
            InputError: if it has not been trained yet.
        """
        file = self.file(name)
        if not file.exists():
            raise InputError(
                f"{file} does not exist, but others are trained on it: run "
                f"python -m scripts.train zoo={self.zoo_name} train={self.zoo_name}/{name} first"
            )
        return file

    def finished(self, name: str) -> nn.Module:
        """An exported network that others are trained on; see ``foundation``."""
        network = models.create(**network_config(self.config, name)).to(self.device)
        load_checkpoint(network, self.foundation(name))
        return network.eval().requires_grad_(False)

    def open(self, recipe: DictConfig) -> Training:
        """A recipe's training, resumed from its state, else from its exported weights.

        Raises:
            InputError: if either is of another recipe, network, data or first stage.
        """
        torch.manual_seed(recipe.seed)
        network = models.create(**self.sizes(recipe)).to(self.device)
        network = network.to(memory_format=torch.channels_last)
        if recipe.get("start_from"):
            load_checkpoint(network, self.start(recipe.start_from))
        if recipe.kind == "stitched":
            for name, part in zip(self.stitched_parts(), network.parts, strict=True):
                load_checkpoint(part, self.start(name))
        identity = self.identity(recipe)
        file = self.file(recipe.name)
        record = provenance(file) if file.exists() else None  # some records are shipped alone
        if record is not None:
            check_same(identity, record, record_path(file))
        objective = self.objective(recipe, network)
        state = Path(self.config.runs) / "train" / self.zoo_name / recipe.name / "last.pt"
        if recipe.kind == "stitched" and record is None and not state.exists():
            objective.fit()
        forward = objective
        if distributed.world_size() > 1:
            partly = recipe.kind == "stitched"  # a step uses one path of many
            forward = nn.parallel.DistributedDataParallel(objective, find_unused_parameters=partly)
        training = Training(
            recipe,
            identity,
            network,
            objective,
            state,
            forward,
            torch.autocast(self.device.type, self.dtype, self.dtype != torch.float32),
            distributed.rank(),
            distributed.world_size(),
            self.config.micro_batch,
        )
        training.resume()
        if record is not None and record["images_seen"] > training.images:
            load_checkpoint(network, file)
            training.go_on_from(record["images_seen"], record["parts"])
            log.info("%s: resuming from %s", recipe.name, file)
        training.exported = record["images_seen"] if record is not None else 0
        if training.exported and (recipe.kind in FOUNDATIONS or training.done):
            log.info("%s is finished: %s", recipe.name, file)
        if self.compile:
            objective.compile(dynamic=False)
        return training

    def sizes(self, recipe: DictConfig) -> dict:
        """Architecture and sizes of a recipe's network."""
        return network_config(self.config, recipe.name)

    def encoder_sha256(self) -> str:
        """The hash of the network that makes the latents, of which there may be no file."""
        if self.config.data.latents is None:
            return recorded_sha256(self.foundation("first-stage"))
        return latents.encoder_sha256(self.config.zoo, self.export_folder)

    def identity(self, recipe: DictConfig) -> dict:
        """Everything that identifies a training."""
        facts = {
            "network": self.sizes(recipe),
            "recipe": OmegaConf.to_container(recipe),
            "data_sha256": self.data.sha256,
        }
        if recipe.kind in (*DENOISERS, "preview"):
            facts["first_stage_sha256"] = self.encoder_sha256()
        if recipe.kind == "denoiser" and recipe.get("start_from"):
            facts["start_from_sha256"] = recorded_sha256(self.start(recipe.start_from))
        if recipe.kind == "stitched":
            names = self.stitched_parts()
            facts["parts_sha256"] = {n: recorded_sha256(self.start(n)) for n in names}
        return facts

    def stitched_parts(self) -> list[str]:
        """The small and the large denoiser that model stitching starts from."""
        return [self.config.zoo.stitched[part] for part in ("small", "large")]

    def objective(self, recipe: DictConfig, network: nn.Module) -> nn.Module:
        """What a recipe's network learns.

        Raises:
            InputError: for an unknown kind.
        """
        if self.config.data.latents is not None and recipe.kind not in DENOISERS:
            raise InputError(
                f"data.latents={self.config.data.latents} is for denoisers; the {recipe.kind} "
                f"{recipe.name} is trained on images: give data.root instead"
            )
        augmentation = augment.create(recipe.get("augment"))
        if recipe.kind == "classifier":
            return objectives.ClassifierObjective(
                network, self.data, augmentation, recipe.label_smoothing, recipe.get("mixup")
            )
        if recipe.kind == "first-stage":
            weight = recipe.get("feature_weight", 0)
            classifier = self.finished("classifier") if weight else None
            return objectives.FirstStageObjective(
                network, self.data, augmentation, recipe.kl_weight, classifier, weight
            )
        if recipe.kind == "decoder":
            return objectives.DecoderObjective(network, self.data)
        if recipe.kind == "preview":
            return objectives.PreviewObjective(network, self.data, self.finished("first-stage"))
        if recipe.kind in DENOISERS:
            return self._denoiser_objective(recipe, network, self.latents, self.data.labels)
        raise InputError(
            f"train.kind={recipe.kind!r} is unknown; known: classifier, first-stage, decoder, "
            f"preview, {', '.join(DENOISERS)}"
        )

    def _denoiser_objective(self, recipe, network, latents, labels) -> DenoiserObjective:
        settings = (recipe.label_dropout, recipe.get("interval"), recipe.get("weighting"))
        return DENOISERS[recipe.kind](network, *latents, labels, *settings)

    def advance(self, training: Training, until: int, stop: Callable[[], bool]) -> None:
        """Train until ``until`` images have been seen or ``stop`` says so."""
        part = {
            "device": devices.name(self.device),
            "processes": distributed.world_size(),
            **{f"recipe.{name}": training.recipe[name] for name in FREE if name in training.recipe},
            "precision": str(self.dtype).removeprefix("torch."),
            "torch": str(torch.__version__),  # a plain str, for pickle
            "commit": self.commit,
        }
        name = training.recipe.name
        if name not in self._loggers:
            self._loggers[name] = metrics_logger(self.config, training.recipe)
        logs = until - training.images >= self.config.log_every * training.recipe.batch_size
        peak = None
        if logs and training.recipe.kind == "denoiser":
            one = matmul.training_peak(training.network, self.dtype, self.device)
            peak = distributed.world_size() * one
        training.run(
            until,
            stop,
            self._loggers[name],
            part,
            self.config.checkpoint_seconds,
            self.config.log_every,
            peak,
        )

    def export(self, training: Training) -> None:
        """Store the averaged weights in half precision, with a record of how they were made."""
        if distributed.is_main():
            self._store(training, training.recipe.name)
        distributed.barrier()
        training.exported = training.images

    def keep_snapshots(self, training: Training) -> None:
        """Store the averaged weights under their age if it is one of ``train.snapshots``."""
        for name in self.snapshots.due(training):
            distributed.barrier()  # all have seen what is due
            if distributed.is_main():
                self._store(training, name)

    def _store(self, training: Training, name: str) -> None:
        average, objective = training.average, training.objective
        if hasattr(objective, "finish"):
            average = copy.deepcopy(average)
            objective.finish(average)
        results = objective.evaluate(average, self._test(training.recipe, average))
        record = {
            **training.identity,
            "images_seen": training.images,
            "weights": "exponential moving average",
            "results": results,
            "wall_seconds": round(training.seconds),
            "parts": training.parts,
            **self.config.zoo.get("provenance", {}),
        }
        self._write(training.recipe, name, average, record)
        if hasattr(average, "encode"):
            self._draw(average, training.path.with_name("reconstructions.png"))
        log.info("%s: %d images, %s", name, training.images, results)

    def _write(self, recipe: DictConfig, name: str, average: nn.Module, record: dict) -> None:
        save_checkpoint(average, self.file(name), record)

    def _test(self, recipe: DictConfig, network: nn.Module):
        """What an objective evaluates on; None: latents are all there is."""
        if self.config.data.latents is not None:
            return None
        if recipe.kind not in DENOISERS:
            return self.test
        return self._denoiser_objective(recipe, network, self.test_latents, self.test.labels)

    def _draw(self, stage: nn.Module, path: Path) -> None:
        """Draw sixteen test images and, below them, an autoencoder's reconstructions."""
        chosen = torch.linspace(0, self.test.count - 1, min(16, self.test.count)).long()
        images = self.test.images[chosen].to(self.device)
        rows = torch.cat([images, stage.decode(stage.encode(images))]).cpu()
        save_image(rows / 255, path, nrow=len(images))


def train(
    workshop: Workshop,
    chosen: list[DictConfig],
    stop: Callable[[], bool],
    interrupted: Callable[[], bool],
) -> None:
    """Train networks by their recipes: first those that others need, then the others in turn.

    Args:
        stop: whether to end after the current step.
        interrupted: whether a signal is the reason.
    """
    for recipe in chosen:
        if recipe.kind in FOUNDATIONS and not stop():
            training = workshop.open(recipe)
            if not training.exported:
                workshop.advance(training, recipe.images, stop)
                if training.done:
                    workshop.export(training)
    others = [recipe for recipe in chosen if recipe.kind not in FOUNDATIONS]
    if not stop():
        take_turns(workshop, [workshop.open(recipe) for recipe in others], stop, interrupted)


def take_turns(
    workshop: Workshop,
    trainings: list[Training],
    stop: Callable[[], bool],
    interrupted: Callable[[], bool],
) -> None:
    """Train all until done, always the one that has seen the smallest share of its images.

    A turn is ``export_every`` images, or fewer up to a snapshot, and ends with an export, unless a
    signal ended it.
    """
    for training in trainings:
        workshop.keep_snapshots(training)
        if training.done and training.exported < training.images:
            workshop.export(training)  # killed between training and export
    while not stop() and not all(training.done for training in trainings):
        training = min(trainings, key=lambda t: t.images / t.recipe.images)
        end = training.images + workshop.config.export_every
        workshop.advance(training, workshop.snapshots.stop(training.images, end), stop)
        if not interrupted():
            workshop.keep_snapshots(training)
            workshop.export(training)
