"""Make a reference file of real images: ``python -m scripts.reference [images=PATH]``."""

if not __package__:
    import as_module  # noqa: F401  says how to start it, and exits

import logging

import torch
from omegaconf import DictConfig

from eval.datasets import open_dataset
from eval.features import create_extractor, find_weights
from eval.images import open_images
from eval.reference import save_reference
from models.checkpoint import recorded_sha256
from models.errors import InputError
from scripts import launch
from scripts.cli import command
from scripts.evaluate import extract_shared

log = logging.getLogger("reference")


@command("reference")
def main(config: DictConfig) -> None:
    if config.images is None and config.eval.get("data") is None:
        raise InputError(
            "images is not set, and this evaluation (eval=) has no data set of its own; give the "
            "real images with images=PATH"
        )
    if not str(config.reference).endswith(".safetensors"):
        raise InputError(f"reference={config.reference} must be the name of a .safetensors file")
    device = launch.start()
    if config.images is None:
        images = open_dataset(config.eval.data, "train", **config.data)
        data, data_sha256 = f"{config.eval.data}, training split", images.sha256
    else:
        images, data = open_images(config.images, "images"), config.images
        data_sha256 = launch.from_main(lambda: images.sha256(images.count))
    weights = find_weights(config.eval.weights, config.eval.url)
    extractor = create_extractor(config.eval.extractor, weights, device)
    kinds = [kind for kind in extractor.get_requested_features_list() if kind != "logits"]
    found = extract_shared(extractor, images, images.count, config.eval.batch_size, kinds)
    if not launch.is_main():
        return
    provenance = {
        "data": data,
        "data_sha256": data_sha256,
        "extractor": config.eval.extractor,
        "extractor_sha256": recorded_sha256(weights),
        "device": launch.device_name(device),
        "commit": launch.commit(),
    }
    # Float16 holds the shipped classifier's features well; others' are kept as they are.
    dtype = torch.float16 if config.images is None else torch.float32
    save_reference(config.reference, found, config.num_features, provenance, dtype)
    log.info("reference of %d images: %s", images.count, config.reference)


if __name__ == "__main__":
    main()
