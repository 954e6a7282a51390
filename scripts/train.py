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
from scripts.cli import command
from stitch.runs import devices, distributed, interrupt
from stitch.runs.tracking import check_tracking
from stitch.training import Workshop, recipes, train

log = logging.getLogger("train")


@command("train")
def main(config: DictConfig) -> None:
    check_tracking(config.wandb)
    os.nice(config.nice)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device = devices.start(config.device)
    chosen = recipes(config, device)
    options = {name: config.data[name] for name in ("root", "download")}
    workshop = Workshop(
        config, device, lambda split: open_dataset(config.zoo.data, split, **options)
    )
    deadline = time.monotonic() + 60 * (config.train.minutes or float("inf"))
    with interrupt.interruptible() as signalled:

        def interrupted() -> bool:
            return any(distributed.from_all(signalled()))

        def stop() -> bool:
            return any(distributed.from_all(signalled() or time.monotonic() > deadline))

        train(workshop, chosen, stop, interrupted)
        if time.monotonic() > deadline:
            log.info("train.minutes=%g are over; the same command resumes", config.train.minutes)


if __name__ == "__main__":
    main()
