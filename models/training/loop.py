"""The training loop of one network, which can stop and resume at any step.

Progress is counted in images, so that another machine may resume with another batch size.
"""

import copy
import functools
import logging
import math
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from tqdm import tqdm

from models.errors import InputError
from models.files import check_zip, replacing, saved_by_library, writing
from models.training import ema, optimizers

log = logging.getLogger("train")

# What a machine may choose: a training resumes if these change, and its ``parts`` record it.
FREE = ("images", "batch_size", "lr", "optimizer")


class DamagedStateError(InputError):
    """A training's state cannot be read."""


class OtherTrainingError(InputError):
    """A state or an export is of another recipe, network, data or first stage."""


class Training:
    """The training of one network: weights, their average, optimisers, and images seen.

    Args:
        recipe: ``configs/train/ZOO/NAME.yaml``.
        identity: everything that identifies this training, as plain data that includes ``recipe``;
            see ``check_same``.
        network: to be trained; everything runs on its device.
        objective: a module around ``network``; see ``models.training.objectives``.
        path: the file of the training's state.
        forward: ``objective``, or its wrapper for several processes.
        autocast: what the losses are computed in.
        rank, world_size: which part of every batch is this process's.
        micro_batch: how many images of that part are computed at once, their gradients added up;
            None: all.

    Attributes:
        images: seen so far.
        step: steps taken so far.
        seconds: spent in steps so far, in earlier processes too.
        average: the network with averaged weights, which is the one to use.
        exported: images seen by the weights that were exported last.
        parts: of the training, one per machine: the facts ``part``, images and seconds.
    """

    def __init__(
        self,
        recipe: DictConfig,
        identity: dict,
        network: nn.Module,
        objective: nn.Module,
        path: Path,
        forward: nn.Module,
        autocast: AbstractContextManager,
        rank: int = 0,
        world_size: int = 1,
        micro_batch: int | None = None,
    ):
        if recipe.batch_size % world_size:
            raise InputError(
                f"train.batch_size={recipe.batch_size} is not a multiple of the {world_size} "
                "processes; change one of them"
            )
        self.recipe, self.identity, self.path = recipe, identity, path
        self.network, self.objective, self.forward = network, objective, forward
        self.autocast = autocast
        self.rank, self.world_size = rank, world_size
        self.micro_batch = micro_batch or recipe.batch_size // world_size
        self.device = next(network.parameters()).device
        self.average = copy.deepcopy(network).eval().requires_grad_(False)
        self.optimizers = optimizers.create(recipe, network)
        self.step, self.images, self.seconds = 0, 0, 0.0
        self.warm_from, self.exported = 0, 0
        self.parts: list[dict] = []
        self._saved = time.monotonic()

    @property
    def done(self) -> bool:
        return self.images >= self.recipe.images

    @property
    def path_before(self) -> Path:
        """The file of the state before the one at ``path``."""
        return self.path.with_name(f"before-{self.path.name}")

    def resume(self) -> bool:
        """Resume from the state at ``path``, or if it is lost or damaged from the one before.

        Returns:
            False if there is neither.

        Raises:
            InputError: if none can be read, or it is of another recipe, naming the differences.
        """
        there = [path for path in (self.path, self.path_before) if path.exists()]
        for path in there:
            try:
                self._load(path)
            except DamagedStateError as error:
                if path == there[-1]:
                    raise
                log.warning("%s; the state before it is at %s", error, there[-1])
            else:
                log.info("%s: continuing at %d images from %s", self.recipe.name, self.images, path)
                return True
        return False

    def _load(self, path: Path) -> None:
        try:
            check_zip(path)  # torch does not verify checksums
            saved = torch.load(path, map_location=self.device, weights_only=True)
            check_same(self.identity, saved["identity"], path)
            self._check_optimizer(saved["identity"]["recipe"], path)
            for name, part in self._modules().items():
                part.load_state_dict(saved[name])
        except (OtherTrainingError, torch.OutOfMemoryError):
            raise
        except InputError as error:
            raise DamagedStateError(str(error)) from error
        except Exception as error:  # a damaged file can raise anything
            raise DamagedStateError(
                f"{path} is damaged ({type(error).__name__}: {error}); delete it, and the "
                "training resumes from the exported weights, or starts anew if there are none"
            ) from error
        for name in ("step", "images", "seconds", "warm_from", "parts"):
            setattr(self, name, saved[name])

    def _check_optimizer(self, recipe: dict, path: Path) -> None:
        """Refuse the state of another optimiser, which ours cannot go on from."""
        theirs, ours = optimizers.chosen(recipe), optimizers.chosen(self.recipe)
        if theirs != ours:
            raise OtherTrainingError(
                f"{path} is of train.optimizer={theirs}, not {ours}; move it away to go on from "
                "the exported weights"
            )

    def go_on_from(self, images: int, parts: list[dict]) -> None:
        """Resume from the network's present weights, those after ``images`` images.

        For exported weights whose state is lost or older: the average starts from them too, and the
        optimiser starts anew and warms up again.
        """
        for optimizer in self.optimizers.values():
            optimizer.state.clear()
        self.average.load_state_dict(self.network.state_dict())
        self.step = self.warm_from = images // self.recipe.batch_size
        self.images, self.parts = images, parts
        self.seconds = sum(part["seconds"] for part in parts)

    def save(self) -> None:
        """Write the state as a whole or not at all, and keep the one before.

        Raises:
            FloatingPointError: if weights are not finite; the files stay as they are.
        """
        if not all(value.isfinite().all() for value in self.average.state_dict().values()):
            raise FloatingPointError(
                f"{self.recipe.name}: weights are not finite after {self.images} images; "
                f"{self.path} stays as it was. Resume from it with a lower train.lr"
            )
        counts = ("step", "images", "seconds", "warm_from", "parts")
        record = {name: getattr(self, name) for name in counts}
        record["identity"] = self.identity
        record |= {name: part.state_dict() for name, part in self._modules().items()}
        with (
            writing(self.path),
            replacing(self.path) as temporary,
            saved_by_library(temporary),
        ):
            torch.save(record, temporary)
            if self.path.exists():
                os.replace(self.path, self.path_before)
        self._saved = time.monotonic()

    def run(
        self,
        until: int,
        stop: Callable[[], bool],
        logger: Callable[[dict, int], None],
        part: dict,
        checkpoint_seconds: float = 60,
        log_every: int = 50,
        peak: float | None = None,
    ) -> None:
        """Train until ``until`` images have been seen or ``stop`` says so, and save the state.

        Args:
            stop: called after every step; it must return the same in all processes.
            logger: gets losses by name and the number of images seen, every ``log_every`` steps.
            part: facts about this machine, for ``parts``.
            peak: images per second that all processes would reach at the rate of matrix products;
                then their share of it is shown as ``mfu`` (model FLOPs utilisation, Chowdhery et
                al. 2022, PaLM, app. B).

        Raises:
            FloatingPointError: if a logged loss is not finite, or weights that are to be saved.
        """
        if not self.done:
            self._begin(part)
        self.network.train()
        bar = tqdm(
            total=self.recipe.images,
            initial=self.images,
            desc=self.recipe.name,
            unit="img",
            disable=self.rank != 0,
            smoothing=0.05,
            mininterval=1.0,
        )
        logged = self.images, time.monotonic()
        while self.images < min(until, self.recipe.images):
            began = time.monotonic()
            losses = self._step()
            bar.update(self.recipe.batch_size)
            if self.step % log_every == 0:
                values = {name: value.item() for name, value in losses.items()}
                if not math.isfinite(values["loss"]):
                    raise FloatingPointError(
                        f"{self.recipe.name}: loss is {values['loss']} at step {self.step}"
                    )
                now = self.images, time.monotonic()
                values["images_per_second"] = (now[0] - logged[0]) / (now[1] - logged[1])
                if peak is not None:
                    values["mfu"] = values["images_per_second"] / peak
                logged = now
                bar.set_postfix({name: f"{value:.4g}" for name, value in values.items()})
                logger(values, self.images)
            self._count(time.monotonic() - began)
            if self.rank == 0 and time.monotonic() - self._saved > checkpoint_seconds:
                self.save()
            if stop():
                break
        bar.close()
        if self.rank == 0:
            self.save()

    def _step(self) -> dict[str, Tensor]:
        recipe = self.recipe
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * learning_rate_factor(self, recipe)
        # Everything random depends on (seed, step) only: resuming and ranks change nothing.
        indices = batch_indices(
            recipe.seed, self.images, recipe.batch_size, self.objective.count, self.device
        )
        generator = torch.Generator(self.device).manual_seed(recipe.seed * 1_000_003 + self.step)
        share = recipe.batch_size // self.world_size
        mine = slice(self.rank * share, (self.rank + 1) * share)
        batch = [part[mine] for part in self.objective.batch(indices, generator)]
        losses = self._gradients(batch)
        nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip_grad_norm)
        for optimizer in self.optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.images += recipe.batch_size
        ema.update(self.average, self.network, self._decay())
        return losses

    def _gradients(self, batch: list[Tensor]) -> dict[str, Tensor]:
        """Add up the gradients of this process's images, ``micro_batch`` at once; mean losses."""
        pieces = list(zip(*(part.split(self.micro_batch) for part in batch), strict=True))
        # Processes average their gradients once, after the last piece.
        alone = getattr(self.forward, "no_sync", nullcontext)
        means: dict[str, Tensor] = {}
        for i, piece in enumerate(pieces):
            share = len(piece[0]) / len(batch[0])
            with alone() if i < len(pieces) - 1 else nullcontext():
                with self.autocast:
                    losses = self.forward(*piece)
                (share * losses["loss"]).backward()
            for name, value in losses.items():
                means[name] = means.get(name, 0) + share * value.detach()
        return means

    def _decay(self) -> float:
        if "ema_width" in self.recipe:
            return ema.power_decay(self.images, self.recipe.batch_size, self.recipe.ema_width)
        return self.recipe.ema_decay

    def _begin(self, part: dict) -> None:
        """Start a new entry of ``parts`` unless the last one has the same facts."""
        if self.parts and not self.parts[-1]["images"]:
            self.parts.pop()
        if not self.parts or any(self.parts[-1].get(name) != part[name] for name in part):
            self.parts.append({**part, "images": 0, "seconds": 0.0})

    def _count(self, seconds: float) -> None:
        self.seconds += seconds
        self.parts[-1]["seconds"] += seconds
        self.parts[-1]["images"] += self.recipe.batch_size

    def _modules(self) -> dict:
        return {"network": self.network, "average": self.average, **self.optimizers}


def check_same(identity: dict, other: dict, where: Path) -> None:
    """Refuse a training of another recipe, network, data or first stage.

    Args:
        identity: ours: nested dicts of plain data.
        other: the one found at ``where``; names that ours lacks are ignored.

    Raises:
        InputError: naming what differs; what a machine may choose (``FREE``) is ignored.
    """
    ours, theirs = (
        _flat(facts) for facts in (identity, {name: other.get(name) for name in identity})
    )
    differences = [
        f"{name} is {theirs.get(name)} there and {ours.get(name)} here"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]
    if differences:
        raise OtherTrainingError(
            f"{where} is of another training: {'; '.join(differences)}; move it away to start "
            "anew, or choose other folders (export=, runs=)"
        )


def _flat(facts: dict, prefix: str = "") -> dict:
    """Nested facts by dotted names, without what a machine may choose."""
    flat = {}
    for name, value in facts.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        elif prefix + name not in {f"recipe.{free}" for free in FREE}:
            flat[prefix + name] = value
    return flat


def learning_rate_factor(training: Training, recipe: DictConfig) -> float:
    """Linear warm-up, constant, then linear to zero over the last ``cooldown`` of the images."""
    warm = min(1.0, (training.step - training.warm_from + 1) / recipe.warmup_steps)
    cooldown = max(recipe.batch_size, recipe.cooldown * recipe.images)
    return min(warm, (recipe.images - training.images) / cooldown)


def batch_indices(
    seed: int, start: int, batch_size: int, num_images: int, device: torch.device
) -> Tensor:
    """(batch_size,) indices of the training images that are seen from image ``start`` on.

    Epochs are permutations keyed by (seed, epoch).
    """
    parts, position, stop = [], start, start + batch_size
    while position < stop:
        epoch, offset = divmod(position, num_images)
        part = epoch_order(seed, epoch, num_images, device)[offset : offset + stop - position]
        parts.append(part)
        position += len(part)
    return torch.cat(parts)


@functools.lru_cache(maxsize=2)  # trainings take turns, each stays in an epoch for long
def epoch_order(seed: int, epoch: int, num_images: int, device: torch.device) -> Tensor:
    """The permutation of the training images in epoch ``epoch``."""
    generator = torch.Generator().manual_seed(seed * 7_919 + epoch)
    return torch.randperm(num_images, generator=generator).to(device)
