"""Files of pictures: which files of a folder are some, and one file as pixels.

PIL reads them. What it reads is read, hidden files are left out, and any other file is named.
"""

import contextlib
import functools
import io
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from models.errors import InputError

log = logging.getLogger("images")

# PIL gives these to other programs, or knows no more than their names.
_NOT_BY_PIL = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
# What people keep beside pictures.
_NOTES = {
    ".csv", ".db", ".html", ".ini", ".json", ".jsonl", ".log", ".md", ".tsv", ".txt", ".xml",
    ".yaml", ".yml",
}  # fmt: skip
# PIL's modes that are 8-bit gray or RGB to the bit, and their channels.
_CHANNELS = {"1": 1, "L": 1, "P": 3, "RGB": 3}
_ORIENTATION = 0x0112  # EXIF's tag; 1 is upright


class ImageError(InputError):
    """Images cannot be used; the message names the file and the fix."""


@functools.cache
def formats() -> dict[str, str]:
    """Suffix -> PIL's name of the format, of all that PIL reads by itself."""
    Image.init()
    known = Image.OPEN.keys() - _NOT_BY_PIL
    return {suffix: name for suffix, name in Image.registered_extensions().items() if name in known}


def find_pictures(folder: Path) -> list[Path]:
    """The files of pictures below ``folder``, sorted by path.

    Links are followed; a folder that is reached twice is read once. Hidden files and folders, and
    notes such as ``dataset.json``, are left out.

    Raises:
        ImageError: if there is any other file, or a link to nothing.
    """
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()

    def walk(folder: Path) -> None:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            log.warning("%s is a link to a folder that is read already; it is left out", folder)
            return
        seen.add((status.st_dev, status.st_ino))
        for path in sorted(folder.iterdir()):
            if path.name.startswith("."):
                continue
            if path.is_dir():
                walk(path)
            elif not path.is_file():
                raise ImageError(f"{path} is a link to nothing, or no file; remove or mend it")
            elif path.suffix.lower() in formats():
                found.append(path)
            elif path.suffix.lower() not in _NOTES:
                raise ImageError(
                    f"{path} is no picture that is read here, by its name; convert it to PNG, or "
                    f"move it out of {folder}"
                )

    walk(folder)
    return sorted(found)


@contextlib.contextmanager
def _opened(file: Path | io.BytesIO, name: Path) -> Iterator[Image.Image]:
    """A picture; whatever PIL raises on it names the file."""
    try:
        with Image.open(file, formats=sorted(set(formats().values()))) as image:
            yield image
    except InputError:
        raise
    except Exception as error:  # PIL raises a dozen kinds on damaged bytes
        raise ImageError(f"{name} cannot be read as an image: {error}") from error


def kind(file: Path) -> tuple[int, int, int]:
    """Height, width and channels (1 or 3), from the head of a file.

    Raises:
        ImageError: if it is damaged, has more than one picture, or cannot become 8-bit gray or RGB
            without a choice.
    """
    with _opened(file, file) as image:
        _check_single(image, file)
        if image.mode not in _CHANNELS or "transparency" in image.info:
            see_through = " with transparency" if "transparency" in image.info else ""
            raise ImageError(
                f"{file} is an image of mode {image.mode}{see_through}; images are 8-bit RGB or "
                "gray (L): convert it"
            )
        return image.height, image.width, _CHANNELS[image.mode]


def turned(file: Path) -> bool:
    """Whether EXIF says that a picture is to be turned or mirrored to be upright."""
    with _opened(file, file) as image:
        _check_single(image, file)
        return image.getexif().get(_ORIENTATION, 1) not in (0, 1)


def _check_single(image: Image.Image, file: Path) -> None:
    # Cameras put a second, smaller picture into a JPEG, which is then an MPO.
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise ImageError(f"{file} has {image.n_frames} pictures; store each in a file of its own")


def decode(file: Path, channels: int) -> np.ndarray:
    """(H, W, ``channels``) uint8 pixels of a file that ``kind`` knows.

    Raises:
        ImageError: if it is damaged.
    """
    data = _checked_bytes(file)
    with _opened(data, file) as image:
        pixels = np.asarray(image.convert("RGB" if channels == 3 else "L"))
    return pixels if pixels.ndim == 3 else pixels[..., None]


def decode_resized(
    file: Path, resized: Callable[[Image.Image], np.ndarray], upright: bool
) -> np.ndarray:
    """A picture of any size and mode as (H, W, 3) uint8 of one size.

    Args:
        resized: what makes it so, such as ``centre_crop`` as for ADM's references.
        upright: turn it as EXIF says first, which ADM's data loader does not.

    Raises:
        ImageError: if it is damaged.
    """
    data = _checked_bytes(file)
    with _opened(data, file) as image:
        return resized(ImageOps.exif_transpose(image) if upright else image)


def centre_crop(image: Image.Image, size: int) -> np.ndarray:
    """(size, size, 3) uint8 of the middle, as ``center_crop_arr`` of guided-diffusion.

    The shorter side is halved by averaging while it is at least twice ``size``, then resized
    bicubically to ``size``.
    """
    image = image.convert("RGB")
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    shape = round(image.width * scale), round(image.height * scale)
    image = image.resize(shape, Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


def _checked_bytes(file: Path) -> io.BytesIO:
    """The content of a file; a PNG is compared with its checksums, which decoding leaves out."""
    try:
        data = io.BytesIO(file.read_bytes())
    except OSError as error:
        raise ImageError(f"{file} cannot be read: {error.strerror}") from error
    with _opened(data, file) as image:
        if image.format == "PNG":
            image.verify()
    data.seek(0)
    return data
