"""Encode training images once: ``python -m scripts.encode zoo=imagenet256-dit data.root=PATH``.

Means and deviations of the latents, of mirrored images too if the zoo trains on them, go to shards
of safetensors, which ``scripts.train data.latents=FOLDER`` reads. Alone or under ``torchrun``.
Interrupt it at any time: the same command encodes what is missing.
"""

if not __package__:
    import as_module  # noqa: F401  says how to start it, and exits

import logging

import torch
from omegaconf import DictConfig

from eval.datasets import open_dataset
from models.errors import InputError
from scripts.cli import command
from stitch.runs import devices, distributed
from stitch.runs.latents import LatentFolder, encode_missing, encoder_sha256, load_encoder

log = logging.getLogger("encode")


@command("encode")
def main(config: DictConfig) -> None:
    zoo = config.zoo
    if "data" not in zoo:
        raise InputError(f"zoo={zoo.name} does not say what it is trained on; its card needs data")
    if config.shard_size % config.batch_size:
        raise InputError(
            f"shard_size={config.shard_size} must be a multiple of batch_size={config.batch_size}"
        )
    device = devices.start(config.device)
    images = open_dataset(zoo.data, "train", **config.data)
    if images.num_classes != zoo.num_classes:
        raise InputError(
            f"data.root={config.data.root} has {images.num_classes} classes, zoo={zoo.name} has "
            f"{zoo.num_classes}: labels would be of others; complete the data"
        )
    stage = load_encoder(zoo, zoo.checkpoints, device)
    run = {
        "data": zoo.data,
        "data_sha256": images.sha256,
        "first_stage_sha256": encoder_sha256(zoo, zoo.checkpoints),
        "flips": zoo.get("flips", False),
        "dtype": "float16",
    }
    folder = LatentFolder(config.latents, run, config.shard_size)
    facts = {
        "batch_size": config.batch_size,
        "device": devices.name(device),
        "torch": str(torch.__version__),
    }
    made = encode_missing(
        folder, images.count, images.read, images.labels, stage, config.batch_size, facts
    )
    if distributed.is_main():
        done = f"{made} encoded now" if made else "all were encoded already"
        log.info("latents of %d images in %s (%s)", images.count, folder.path, done)
        shards = folder.timings()
        seconds = sum(shard["seconds"] for shard in shards)
        log.info("%.1f images/s of one process", sum(s["images"] for s in shards) / seconds)


if __name__ == "__main__":
    main()
