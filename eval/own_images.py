"""A user's own pictures, of all sizes and modes, to make a reference of."""

import functools
import logging
from pathlib import Path

from omegaconf import DictConfig

from eval.images import FolderImages, Images, open_images, warn_if_held_out
from eval.pictures import centre_crop
from eval.prepare import SIZE, photograph
from models.errors import InputError

log = logging.getLogger("reference")


def own_images(config: DictConfig) -> tuple[Images, dict]:
    """The user's images, and for the record what they are and how they were brought to one size.

    Args:
        config: ``images`` of ``configs/reference.yaml``.

    Raises:
        InputError: if they cannot be used.
    """
    path, resize, exif = config.path, config.resize, config.exif
    warn_if_held_out(path, "images")
    if resize is None:
        if exif == "apply":
            raise InputError("images.exif=apply turns pictures that images.resize=SIZE reads")
        images, facts = open_images(path, "images"), {"data": str(path)}
    else:
        if not Path(path).is_dir():
            raise InputError(f"images.resize={resize} is for a folder of pictures, not {path}")
        jpeg = config.prepare == "bk-sdm"
        if jpeg and resize != SIZE:
            raise InputError(f"images.prepare=bk-sdm is of images.resize={SIZE}, not {resize}")
        resized = photograph if jpeg else functools.partial(centre_crop, size=resize)
        images = FolderImages(Path(path), resized, exif == "apply", "images")
        facts = {"data": str(path), "resize": resize, "exif": exif, "turned_by_exif": images.turned}
        facts |= {"prepare": config.prepare} if jpeg else {}
        log.info(
            "%d images, %s and resized to %dx%d RGB; %d have an EXIF orientation (images.exif=%s)",
            images.count,
            "squeezed, stored as JPEG" if jpeg else "centre-cropped",
            resize,
            resize,
            images.turned,
            exif,
        )
    if images.count < 2:
        raise InputError(f"images={path} has {images.count} images; moments need 2 at least")
    return images, facts
