"""Make a reference file of real images: ``python -m scripts.reference``."""

import logging

from omegaconf import DictConfig
from tqdm import tqdm

from eval.datasets import FashionMNIST
from eval.features import create_extractor, extract
from eval.reference import save_reference
from models.checkpoint import recorded_sha256
from scripts import launch
from scripts.cli import command

log = logging.getLogger("reference")


@command("reference")
def main(config: DictConfig) -> None:
    device = launch.start()
    data = FashionMNIST("train", **config.data)
    extractor = create_extractor(config.eval.extractor, config.eval.weights, device)
    batches = tqdm(data.images.split(500), desc="reference", unit="batch")
    features = extract(extractor, batches)["features"]
    provenance = {
        "data": "Fashion-MNIST, training split",
        "data_sha256": data.sha256,
        "extractor": config.eval.extractor,
        "extractor_sha256": recorded_sha256(config.eval.weights),
        "device": launch.device_name(device),
        "commit": launch.commit(),
    }
    save_reference(config.reference, features, config.num_features, provenance)
    log.info("reference of %d images: %s", len(features), config.reference)


if __name__ == "__main__":
    main()
