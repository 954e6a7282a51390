"""Make a reference file of real images: ``python -m scripts.reference [images=PATH]``.

``images=PATH images.resize=256`` takes a folder of pictures of all sizes and modes, such as your
own ImageNet, and brings them to one size as ADM does.
"""

if not __package__:
    import as_module  # noqa: F401  says how to start it, and exits

import logging
import re
import sys
from pathlib import Path

import torch
from omegaconf import DictConfig

from eval.datasets import open_dataset
from eval.extraction import Pass
from eval.features import create_extractor, find_weights
from eval.images import warnings
from eval.own_images import own_images
from eval.reference import save_reference
from models.errors import InputError
from models.files import check_writable
from models.weights import recorded_sha256
from scripts.cli import command
from stitch.runs import devices, distributed, provenance

log = logging.getLogger("reference")


@command("reference")
def main(config: DictConfig) -> None:
    if config.images.path is None and config.eval.get("data") is None:
        raise InputError(
            "images is not set, and this evaluation (eval=) has no data set of its own; give the "
            "real images with images=PATH"
        )
    if not str(config.reference).endswith(".safetensors"):
        raise InputError(f"reference={config.reference} must be the name of a .safetensors file")
    device = devices.start(config.device)
    check_writable(Path(config.reference).parent, "reference")
    ordered = False
    if config.images.path is None:
        images = open_dataset(config.eval.data, "train", **config.data)
        data = {"data": f"{config.eval.data}, training split", "data_sha256": images.sha256}
        ordered = bool((images.labels.diff() >= 0).all())  # the first would cover few classes
    else:
        images, data = own_images(config.images)
        distributed.from_main(lambda: images.require(images.count))
        data["data_sha256"] = distributed.from_main(lambda: images.sha256(images.count))
        ordered = bool(warnings(images, min(config.num_features, images.count), chunk=None))
    weights = find_weights(config.eval.weights, config.eval.url)
    clip = config.eval.get("clip")
    extractor = create_extractor(config.eval.extractor, weights, device, clip)
    kinds = [kind for kind in extractor.get_requested_features_list() if kind != "logits"]
    seen = Pass(extractor, images, images.count, config.eval.batch_size, kinds).whole()
    if seen is None:
        return
    facts = {
        **data,
        "extractor": config.eval.extractor,
        "extractor_sha256": recorded_sha256(weights),
        "device": devices.name(device),
        "commit": provenance.commit(),
    }
    # Float16 is precise enough for the shipped classifier's features; others keep their type.
    dtype = torch.float16 if config.images.path is None else torch.float32
    save_reference(
        config.reference, seen.features, config.num_features, facts, dtype, spread=ordered
    )
    log.info("reference of %d images: %s", images.count, config.reference)


if __name__ == "__main__":
    sys.argv = [re.sub("^images=", "images.path=", word) for word in sys.argv]
    main()
