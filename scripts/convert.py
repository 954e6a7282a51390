"""Convert weights: ``python -m scripts.convert network=DiT-XL/2 source=A.pt target=B.safetensors``.

Reads what ``models.load_checkpoint`` reads. A target that ends in .safetensors has native names;
any other is a folder in diffusers' layout (DiT).
"""

if not __package__:
    import as_module  # noqa: F401  says how to start it, and exits

import logging
from pathlib import Path

import torch
from omegaconf import DictConfig

import models
from models.dit import DiT
from models.errors import InputError
from models.files import check_writable, writing
from models.weights import recorded_sha256, save_tensors
from scripts.cli import command
from stitch.runs import devices, provenance

log = logging.getLogger("convert")


@command("convert")
def main(config: DictConfig) -> None:
    with torch.device("meta"):
        network = models.create(config.network).to(devices.PRECISIONS[config.precision])
    target = Path(config.target)
    if target.suffix != ".safetensors" and not isinstance(network, DiT):
        raise InputError(f"target={target}: only a DiT can be written for diffusers")
    check_writable(target.parent, "target")
    source = models.load_checkpoint(network, config.source, config.ema)
    if config.ema and source.averaged is False:
        log.warning("%s has no averages, using its raw weights", config.source)
    if source.key is not None:
        log.info("weights of %s: %s", config.source, source.key)
    facts = {
        "network": config.network,
        "source": str(config.source),
        "source_sha256": recorded_sha256(config.source),
        "key": source.key,  # None: the file holds only weights
        "ema": source.averaged,  # None: the file does not say so
        "commit": provenance.commit(),
    }
    with writing(target, "target"):
        if target.suffix == ".safetensors":
            save_tensors(network.state_dict(), target, facts)
        else:
            models.save_diffusers(network, target, facts)
    log.info("%s: %s -> %s", config.network, config.source, target)


if __name__ == "__main__":
    main()
