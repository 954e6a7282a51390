"""Train the networks of a zoo: ``python -m scripts.train zoo=imagenette64`` trains all of them.

``train=imagenette64/DiT-S`` trains one; ``torchrun --nproc-per-node=N -m`` uses several processes.
Interrupt it at any time: the same command resumes, bit-exactly on one CPU.
"""

if not __package__:
    import as_module  # noqa: F401  says how to start it, and exits

import logging
import os
import time

import torch
from omegaconf import DictConfig

from eval.datasets import open_dataset
from models.errors import InputError
from models.training.finetune import tuned
from models.training.recipes import recipes
from samplers import NoiseSchedule
from scripts.cli import command, overrides
from stitch.intervals import intervals
from stitch.runs import devices, distributed, interrupt
from stitch.runs.tracking import check_tracking
from stitch.text_training import TextWorkshop
from stitch.training import Workshop, train

log = logging.getLogger("train")


@command("train")
def main(config: DictConfig) -> None:
    check_tracking(config.wandb)
    os.nice(config.nice)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device = devices.start(config.device)
    chosen = choose(config, device)
    options = {name: config.data[name] for name in ("root", "download")}
    kind = TextWorkshop if config.train.get("pipeline") else Workshop
    workshop = kind(config, device, lambda split: open_dataset(config.zoo.data, split, **options))
    workshop.snapshots.check(chosen)
    deadline = time.monotonic() + 60 * (config.train.minutes or float("inf"))
    with interrupt.interruptible() as signalled:

        def interrupted() -> bool:
            return any(distributed.from_all(signalled()))

        def stop() -> bool:
            return any(distributed.from_all(signalled() or time.monotonic() > deadline))

        train(workshop, chosen, stop, interrupted)
        if time.monotonic() > deadline:
            log.info("train.minutes=%g are over; the same command resumes", config.train.minutes)


def choose(config: DictConfig, device: torch.device) -> list[DictConfig]:
    """The recipes of this command: those of networks, or of what is fine-tuned from them."""
    settings = config.train
    names, owned = settings.denoisers, {}
    if "name" in settings:
        if names is not None:
            raise InputError(
                f"train.denoisers=[{', '.join(names)}] are of the zoo, train=ZOO/{settings.name} "
                "is one network: leave one out"
            )
        names = [settings.name]
    if settings.interval is not None:
        timesteps = NoiseSchedule.create(config.zoo.schedule).num_timesteps
        owned = intervals(settings.interval, names, timesteps)
        names = [*owned]
    elif settings.init is not None and names is None:
        names = [*config.zoo.get("default_denoisers", config.zoo.denoisers)]
    words = (word.lstrip("+").partition("=")[0] for word in overrides())
    given = [word.removeprefix("train.") for word in words if word.startswith("train.")]
    return [
        tuned(recipe, settings.init, owned.get(recipe.name))
        for recipe in recipes(config, device, names, given)
    ]


if __name__ == "__main__":
    main()
