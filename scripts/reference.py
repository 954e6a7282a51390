"""Make a reference file of real images: ``python -m scripts.reference [images=PATH]``.

``images=PATH images.resize=256`` takes a folder of pictures of all sizes and modes, such as one's
own ImageNet, and brings them to one size as ADM's references were made.
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
from eval.images import FolderImages, Images, open_images, warnings
from eval.reference import save_reference
from models.errors import InputError
from models.files import check_writable
from models.weights import recorded_sha256
from scripts.cli import command
from stitch.runs import devices, distributed, provenance

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
    device = devices.start()
    check_writable(Path(config.reference).parent, "reference")
    ordered = False
    if config.images.path is None:
        images = open_dataset(config.eval.data, "train", **config.data)
        data = {"data": f"{config.eval.data}, training split", "data_sha256": images.sha256}
        ordered = bool((images.labels.diff() >= 0).all())  # the first would be of few classes
    else:
        images, data = own_images(config.images)
        distributed.from_main(lambda: images.require(images.count))
        data["data_sha256"] = distributed.from_main(lambda: images.sha256(images.count))
        ordered = bool(warnings(images, min(config.num_features, images.count), chunk=None))
    weights = find_weights(config.eval.weights, config.eval.url)
    extractor = create_extractor(config.eval.extractor, weights, device)
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
    # Float16 holds the shipped classifier's features well; others' are kept as they are.
    dtype = torch.float16 if config.images.path is None else torch.float32
    save_reference(
        config.reference, seen.features, config.num_features, facts, dtype, spread=ordered
    )
    log.info("reference of %d images: %s", images.count, config.reference)


def own_images(config: DictConfig) -> tuple[Images, dict]:
    """The user's images, and for the record what they are and how they were brought to one size.

    Args:
        config: ``images`` of ``configs/reference.yaml``.

    Raises:
        InputError: if they cannot be used.
    """
    path, resize, exif = config.path, config.resize, config.exif
    if resize is None:
        if exif == "apply":
            raise InputError("images.exif=apply turns pictures that images.resize=SIZE reads")
        images, facts = open_images(path, "images"), {"data": str(path)}
    else:
        if not Path(path).is_dir():
            raise InputError(f"images.resize={resize} is for a folder of pictures, not {path}")
        images = FolderImages(Path(path), resize, exif == "apply", "images")
        facts = {"data": str(path), "resize": resize, "exif": exif, "turned_by_exif": images.turned}
        log.info(
            "%d images, centre-cropped and resized to %dx%d RGB; %d have an EXIF orientation "
            "(images.exif=%s)",
            images.count,
            resize,
            resize,
            images.turned,
            exif,
        )
    if images.count < 2:
        raise InputError(f"images={path} has {images.count} images; moments need 2 at least")
    return images, facts


if __name__ == "__main__":
    sys.argv = [re.sub("^images=", "images.path=", word) for word in sys.argv]
    main()
