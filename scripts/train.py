"""Train the networks of a zoo: ``python -m scripts.train zoo=imagenette64`` trains all of them.

``train=imagenette64/DiT-S`` trains one; ``torchrun --nproc-per-node=N -m`` uses several processes.
Interrupt it at any time: the same command goes on, bit-exactly on one CPU.
"""

if not __package__:
    import as_module  # noqa: F401  says how to start it, and exits

import logging
import os
import time
from collections.abc import Callable

import torch
from omegaconf import DictConfig, OmegaConf

from models.errors import InputError
from models.training.loop import Training
from scripts import launch
from scripts.cli import CONFIGS, command
from scripts.tracking import check_tracking
from scripts.workshop import FOUNDATIONS, Workshop

log = logging.getLogger("train")


@command("train")
def main(config: DictConfig) -> None:
    check_tracking(config.wandb)
    os.nice(config.nice)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device = launch.start()
    chosen = recipes(config, device)
    workshop = Workshop(config, device)
    deadline = time.monotonic() + 60 * (config.train.minutes or float("inf"))
    with launch.interruptible() as signalled:

        def interrupted() -> bool:
            return any(launch.from_all(signalled()))

        def stop() -> bool:
            return any(launch.from_all(signalled() or time.monotonic() > deadline))

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
        if time.monotonic() > deadline:
            log.info("train.minutes=%g are over; the same command goes on", config.train.minutes)


def take_turns(
    workshop: Workshop,
    trainings: list[Training],
    stop: Callable[[], bool],
    interrupted: Callable[[], bool],
) -> None:
    """Train all until they are done, always the one that has seen the smallest part of its images.

    A turn is ``export_every`` images and ends with an export, unless a signal ended it.
    """
    for training in trainings:
        if training.done and training.exported < training.images:
            workshop.export(training)  # killed between the two
    while not stop() and not all(training.done for training in trainings):
        training = min(trainings, key=lambda t: t.images / t.recipe.images)
        workshop.advance(training, training.images + workshop.config.export_every, stop)
        if not interrupted():
            workshop.export(training)


def recipes(config: DictConfig, device: torch.device) -> list[DictConfig]:
    """The chosen recipe, or all of the zoo in the order in which they need one another.

    Raises:
        InputError: if the zoo has no recipes.
    """
    given = {k: v for k, v in config.train.items() if v is not None and k != "minutes"}
    if "kind" in given:
        chosen = [OmegaConf.create(given)]
    else:
        folder = CONFIGS / "train" / config.zoo.name
        if not folder.is_dir():
            known = ", ".join(sorted(path.name for path in (CONFIGS / "train").iterdir()))
            raise InputError(f"zoo={config.zoo.name} is not trained here; known: {known}")
        parts = ["classifier", "first-stage", config.zoo.first_stage.file, "preview"]
        names = dict.fromkeys([*parts, *config.zoo.denoisers])
        chosen = [OmegaConf.merge(OmegaConf.load(folder / f"{n}.yaml"), given) for n in names]
    for recipe in chosen:
        on_gpu = recipe.pop("on_gpu", {})
        if device.type == "cuda":
            recipe.update({name: value for name, value in on_gpu.items() if name not in given})
    return chosen


if __name__ == "__main__":
    main()
