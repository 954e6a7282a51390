"""Squared errors of the fashion zoo's denoisers on an interval of timesteps, by their weights.

``python -m tests.measure.interval_errors FOLDER`` compares what docs/training.md makes in FOLDER:
pretrained, fine-tuned on all timesteps, fine-tuned on their own. On the first 2,000 test images,
all with the same noise, timesteps and dropped labels.
"""

import sys
from pathlib import Path

import torch
from omegaconf import OmegaConf

import models
from eval.datasets import open_dataset
from models import variants
from models.training.objectives import posteriors
from models.zoo import CARDS
from samplers.objective import DenoiserObjective

IMAGES = 2000
INTERVALS = {"DiT-B": (200, 500), "DiT-XL": (0, 200)}


@torch.no_grad()
def main(folder: str) -> None:
    card = OmegaConf.load(CARDS / "fashion.yaml")
    stage = models.Zoo(card).first_stage  # its encoder is that of the latents
    card.checkpoints = str(Path(folder).absolute())
    zoo, test = models.Zoo(card), open_dataset("fashion-mnist", "test")
    mean, std = posteriors(stage, test.images[:IMAGES])
    for base, interval in INTERVALS.items():
        for name in (base, variants.tuned(base, None), variants.tuned(base, interval)):
            network = zoo.denoisers[name]
            objective = DenoiserObjective(
                network, mean[None], std[None], test.labels[:IMAGES], 0.1, interval
            )
            print(f"{name:16} {objective.error(network):.5f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
