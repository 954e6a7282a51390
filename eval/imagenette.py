"""Imagenette: photographs of ten ImageNet classes, from a folder, a zip or a download."""

import hashlib
import io
import logging
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from models.errors import InputError

log = logging.getLogger("imagenette")

# WordNet's name of a class -> ours; the order is that of the labels.
CLASSES = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}
# What PIL and zipfile raise on damaged files.
_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    Image.DecompressionBombError,
)
_SPLITS = {"train": "train", "test": "val"}
# Where the data is looked for if nobody says, in this order; the second is torchvision's folder.
PLACES = (Path("data/imagenette64.zip"), Path("data/imagenette2-160"), Path("data/imagenette64"))


class Imagenette:
    """One split of Imagenette (fast.ai; a subset of ImageNet) in memory, as squares.

    Photographs of any size, mode and format that PIL reads are centre-cropped to a square, resized
    by Lanczos and made RGB. They are read in the order of their names, class by class.

    Args:
        split: ``train`` (9,469 photographs) or ``test`` (the folder ``val``, 3,925).
        root: a folder with ``train/WNID/NAME`` and ``val/WNID/NAME``, maybe one level down, or a
            zip of it; None looks at ``PLACES``.
        download: let torchvision download the original if ``root`` is not there.
        size: side of the squares in pixels.

    Attributes:
        images: (N, 3, size, size) uint8.
        labels: (N,) int64 in [0, 10).
        sha256: hash of images and labels, for provenance records.
        count: N.

    Raises:
        InputError: if the data is nowhere, class folders are missing, or a photograph is
            unreadable or smaller than ``size``; it names them.
    """

    num_classes = len(CLASSES)
    run = None  # see ``eval.images.Images``

    def __init__(self, split: str, root: str | None = None, download: bool = False, size: int = 64):
        files = _find(root, download)
        names = _names(files, _SPLITS[split])
        _warn_if_swapped(files)
        with ThreadPoolExecutor() as pool:
            squares = list(pool.map(lambda name: _square(files, name, size), names))
        self.images = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).contiguous()
        wnids = list(CLASSES)
        self.labels = torch.tensor([wnids.index(name.split("/")[-2]) for name in names])
        digest = hashlib.sha256(self.images.numpy().tobytes())
        digest.update(self.labels.numpy().tobytes())
        self.sha256 = digest.hexdigest()
        self.count = len(self.images)

    def read(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """Images of indices [start, stop) as ``eval.images`` gives them: (n, H, W, 3) uint8."""
        yield self.images[start:stop].permute(0, 2, 3, 1).numpy()


@dataclass(frozen=True)
class _Files:
    """The files of a folder or of a zip: their names, relative, and how to read one."""

    path: Path
    names: list[str]
    read: Callable[[str], bytes]


def _find(root: str | None, download: bool) -> _Files:
    places = PLACES if root is None else (Path(root), Path(root) / "imagenette2-160")
    for place in places:
        if zipfile.is_zipfile(place):
            archive = zipfile.ZipFile(place)
            return _Files(place, archive.namelist(), archive.read)
        if place.is_dir() and any((place / "train").glob("n*")):
            return _folder(place)
        if place.is_dir():
            inside = [path.parent for path in place.glob("*/train")]
            if len(inside) == 1:
                return _folder(inside[0])
    if download:
        from torchvision.datasets import Imagenette as Downloader

        folder = Path(root or "data")
        folder.mkdir(parents=True, exist_ok=True)
        Downloader(str(folder), size="160px", download=True)
        return _folder(folder / "imagenette2-160")
    raise InputError(
        f"Imagenette is not in {' or '.join(map(str, places))}: there is no folder (or zip) with "
        "train/WNID/NAME and val/WNID/NAME. Give it with data.root=FOLDER or data.root=FILE.zip, "
        "or let torchvision download it with data.download=true"
    )


def _folder(path: Path) -> _Files:
    names = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
    return _Files(path, names, lambda name: (path / name).read_bytes())


def _names(files: _Files, split: str) -> list[str]:
    """The photographs of a split, in the order of classes and names."""
    found: dict[str, list[str]] = {wnid: [] for wnid in CLASSES}
    for name in files.names:
        *_, folder, wnid, file = ["", "", *name.split("/")]
        if folder == split and wnid in found and file and not file.startswith("."):
            found[wnid].append(name)
    missing = [f"{wnid} ({CLASSES[wnid]})" for wnid, names in found.items() if not names]
    if missing:
        raise InputError(
            f"data.root={files.path} lacks photographs of {len(missing)} of the {len(CLASSES)} "
            f"classes in {split}/: {', '.join(missing)}; complete it, or download it anew with "
            "data.download=true"
        )
    return [name for names in found.values() for name in sorted(names)]


def _warn_if_swapped(files: _Files) -> None:
    """Say so if there is less to train on than to test with: references would be of the wrong."""
    counts = {
        split: sum(split in name.split("/")[-3:-2] for name in files.names)
        for split in _SPLITS.values()
    }
    if counts["train"] < counts["val"]:
        log.warning(
            "warning: data.root=%s has %d photographs in train/ and %d in val/; are they swapped? "
            "References and FID are of train/",
            files.path,
            counts["train"],
            counts["val"],
        )


def _square(files: _Files, name: str, size: int) -> np.ndarray:
    """A photograph as (size, size, 3) uint8."""
    try:
        with Image.open(io.BytesIO(files.read(name))) as image:
            photograph = image.convert("RGB")
    except _UNREADABLE as error:
        raise InputError(
            f"{files.path}: {name} cannot be read as an image ({error}); replace or remove it"
        ) from error
    width, height = photograph.size
    side = min(width, height)
    if side < size:
        raise InputError(
            f"{files.path}: {name} is {width}x{height}, smaller than the {size}x{size} of the "
            "zoo; give larger photographs"
        )
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side)
    if photograph.size != (size, size):
        photograph = photograph.resize((size, size), Image.Resampling.LANCZOS, box=box)
    return np.asarray(photograph)
