"""Training of a zoo's networks: from configs to trainings to finished weights."""

import copy
import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torchvision.utils import save_image

import models
from models import variants
from models.checkpoint import load_checkpoint
from models.errors import InputError
from models.training import augment, objectives
from models.training.loop import FREE, Training, check_same
from models.training.snapshots import Snapshots
from models.weights import provenance, record_path, recorded_sha256, save_checkpoint
from models.zoo import ROOT
from samplers.objective import DenoiserObjective
from stitch.runs import devices, distributed, matmul
from stitch.runs.provenance import commit
from stitch.runs.tracking import metrics_logger

log = logging.getLogger("train")

# Networks that others are trained on, in this order; each is finished before the others begin. Once
# exported, they never change: networks trained on them would no longer fit.
FOUNDATIONS = ("classifier", "first-stage", "text-encoder")
# What ``train`` has that is not a recipe's; ``interval`` becomes one's, see ``scripts.train``.
OF_THE_COMMAND = ("minutes", "init", "interval", "denoisers", "snapshots")


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
        self._loggers: dict[str, Callable[[dict, int], None]] = {}
        self.compile = device.type == "cuda" if config.compile is None else config.compile
        self.snapshots = Snapshots(config.train.snapshots or (), self.file)

    @functools.cached_property
    def data(self):
        return self._open_split("train")

    @functools.cached_property
    def test(self):
        return self._open_split("test")

    @functools.cached_property
    def latents(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Means and deviations (M, N, c, h, w) of the training latents; M is 2 with flips."""
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
            load_checkpoint(network, self.file(recipe.start_from))
        identity = self.identity(recipe)
        file = self.file(recipe.name)
        record = provenance(file) if file.exists() else None  # some records are shipped alone
        if record is not None:
            check_same(identity, record, record_path(file))
        objective = self.objective(recipe, network)
        forward = objective
        if distributed.world_size() > 1:
            forward = nn.parallel.DistributedDataParallel(objective)
        training = Training(
            recipe,
            identity,
            network,
            objective,
            Path(self.config.runs) / "train" / self.zoo_name / recipe.name / "last.pt",
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

    def identity(self, recipe: DictConfig) -> dict:
        """Everything that identifies a training."""
        facts = {
            "network": self.sizes(recipe),
            "recipe": OmegaConf.to_container(recipe),
            "data_sha256": self.data.sha256,
        }
        if recipe.kind in ("denoiser", "preview"):
            facts["first_stage_sha256"] = recorded_sha256(self.foundation("first-stage"))
        if recipe.kind == "denoiser" and recipe.get("start_from"):
            facts["start_from_sha256"] = recorded_sha256(self.file(recipe.start_from))
        return facts

    def objective(self, recipe: DictConfig, network: nn.Module) -> nn.Module:
        """What a recipe's network learns.

        Raises:
            InputError: for an unknown kind.
        """
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
        if recipe.kind == "denoiser":
            return self._denoiser_objective(recipe, network, self.latents, self.data.labels)
        raise InputError(
            f"train.kind={recipe.kind!r} is unknown; known: classifier, first-stage, decoder, "
            "preview, denoiser"
        )

    def _denoiser_objective(self, recipe, network, latents, labels) -> DenoiserObjective:
        settings = (recipe.label_dropout, recipe.get("interval"), recipe.get("weighting"))
        return DenoiserObjective(network, *latents, labels, *settings)

    def advance(self, training: Training, until: int, stop: Callable[[], bool]) -> None:
        """Train until ``until`` images have been seen or ``stop`` says so."""
        part = {
            "device": devices.name(self.device),
            "processes": distributed.world_size(),
            **{f"recipe.{name}": training.recipe[name] for name in FREE},
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

    def _test(self, recipe: DictConfig, average: nn.Module):
        """What an objective's ``evaluate`` compares with: the test split."""
        if recipe.kind == "denoiser":
            return self._denoiser_objective(recipe, average, self.test_latents, self.test.labels)
        return self.test

    def _write(self, recipe: DictConfig, name: str, average: nn.Module, record: dict) -> None:
        save_checkpoint(average, self.file(name), record)

    def _draw(self, stage: nn.Module, path: Path) -> None:
        """Draw sixteen test images and, below them, an autoencoder's reconstructions."""
        chosen = torch.linspace(0, self.test.count - 1, min(16, self.test.count)).long()
        images = self.test.images[chosen].to(self.device)
        rows = torch.cat([images, stage.decode(stage.encode(images))]).cpu()
        save_image(rows / 255, path, nrow=len(images))


def network_config(config: DictConfig, name: str) -> dict:
    """Architecture and sizes of a network, as the zoo's card has them."""
    others = {
        "classifier": "classifier",
        "first-stage": "first_stage",
        "first-stage-ft": "first_stage",
        "preview": "preview",
    }
    denoiser = variants.base(name)
    entry = config.zoo[others[name]] if name in others else config.zoo.denoisers[denoiser]
    sizes = OmegaConf.to_container(entry, resolve=True)
    return {key: value for key, value in sizes.items() if key != "file"}


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


def recipes(
    config: DictConfig, device: torch.device, names: Sequence[str] | None = None
) -> list[DictConfig]:
    """The chosen recipe, or those of ``names``, or all of the zoo in order of dependence.

    Raises:
        InputError: if the zoo has no recipes, or none of a name.
    """
    given = {k: v for k, v in config.train.items() if v is not None and k not in OF_THE_COMMAND}
    if "kind" in given:
        chosen = [OmegaConf.create(given)]
    else:
        folder = ROOT / "configs" / "train" / config.zoo.name
        if not folder.is_dir():
            known = ", ".join(sorted(path.name for path in (ROOT / "configs" / "train").iterdir()))
            raise InputError(f"zoo={config.zoo.name} has no training recipes; known: {known}")
        parts = ["classifier", "first-stage", config.zoo.first_stage.file, "preview"]
        known = dict.fromkeys([*parts, *config.zoo.denoisers])
        unknown = [name for name in names or () if name not in known]
        if unknown:
            raise InputError(
                f"zoo={config.zoo.name} has no recipe of {unknown[0]}; known: {', '.join(known)}"
            )
        files = [folder / f"{name}.yaml" for name in names or known]
        chosen = [OmegaConf.merge(OmegaConf.load(file), given) for file in files]
    for recipe in chosen:
        on_gpu = recipe.pop("on_gpu", {})
        if device.type != "cpu":
            recipe.update({name: value for name, value in on_gpu.items() if name not in given})
    return chosen
