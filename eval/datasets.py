"""Real images by name: Fashion-MNIST from its original idx files, Imagenette and ImageNet."""

import gzip
import hashlib
import math
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eval.imagenet import ImageNet
from eval.imagenette import Imagenette
from models.errors import InputError

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
_PREFIX = {"train": "train", "test": "t10k"}
_FILES = [
    f"{prefix}-{kind}-ubyte"
    for prefix in _PREFIX.values()
    for kind in ("images-idx3", "labels-idx1")
]


def open_dataset(name: str, split: str, **options) -> "FashionMNIST | Imagenette | ImageNet":
    """The split ``train`` or ``test`` of the data set that a zoo's card calls ``data``.

    Args:
        options: ``root`` and ``download``, see the classes.

    Raises:
        InputError: for an unknown name, listing the known ones.
    """
    known = {"fashion-mnist": FashionMNIST, "imagenette": Imagenette, "imagenet": ImageNet}
    if name not in known:
        raise InputError(f"data set {name!r} is unknown; known: {', '.join(known)}")
    return known[name](split, **options)


class FashionMNIST:
    """One split of Fashion-MNIST (Xiao et al. 2017) in memory.

    Args:
        split: ``train`` (60,000 images) or ``test`` (10,000).
        root: a folder with the four idx files (gzipped or not), or one that torchvision filled;
            None looks where Debian's package puts them.
        download: let torchvision download into ``root`` if the files are not there.

    Attributes:
        images: (N, 1, 28, 28) uint8.
        labels: (N,) int64 in [0, 10).
        sha256: hash of images and labels, for provenance records.
        count: N.

    Raises:
        InputError: if the files are in none of the places, naming the three ways.
        InputError: if a file is not what its name says.
    """

    num_classes = 10
    run = None  # see ``eval.images.Images``

    def __init__(self, split: str, root: str | None = None, download: bool = False):
        folder = _find(root, download)
        self.images = _read_idx(_file(folder, f"{_PREFIX[split]}-images-idx3-ubyte"), 3)[:, None]
        labels = _read_idx(_file(folder, f"{_PREFIX[split]}-labels-idx1-ubyte"), 1)
        digest = hashlib.sha256(self.images.numpy().tobytes())
        digest.update(labels.numpy().tobytes())
        self.sha256 = digest.hexdigest()
        if self.images.shape[1:] != (1, 28, 28) or len(labels) != len(self.images):
            raise InputError(
                f"{folder}/{_PREFIX[split]}-images-idx3-ubyte is {tuple(self.images.shape)} for "
                f"{len(labels)} labels in {_PREFIX[split]}-labels-idx1-ubyte; there should be "
                "one label for each image of 28x28"
            )
        if labels.numel() and labels.max() >= self.num_classes:
            raise InputError(
                f"{folder}/{_PREFIX[split]}-labels-idx1-ubyte has a label {labels.max()}; labels "
                "are 0 to 9"
            )
        self.labels = labels.long()
        self.count = len(self.images)

    def read(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """Images of indices [start, stop) as ``eval.images`` gives them: (n, 28, 28, 1) uint8."""
        yield self.images[start:stop].permute(0, 2, 3, 1).numpy()


def _find(root: str | None, download: bool) -> Path:
    if root is None:
        places = [DEBIAN_FOLDER, Path("data/FashionMNIST/raw")]
    else:
        places = [Path(root), Path(root) / "FashionMNIST" / "raw"]
    for place in places:
        if all(_file(place, name) for name in _FILES):
            return place
    if download:
        from torchvision.datasets import FashionMNIST as Downloader

        Downloader(root or "data", download=True)
        return Path(root or "data") / "FashionMNIST" / "raw"
    raise InputError(
        f"Fashion-MNIST is not in {' or '.join(map(str, places))}. Three ways to get it: "
        "install Debian's package (apt-get install dataset-fashion-mnist); "
        "give the folder of the idx files with data.root=FOLDER; "
        "or let torchvision download it with data.download=true"
    )


def _file(folder: Path, name: str) -> Path | None:
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    return None


def _read_idx(path: Path, dimensions: int) -> Tensor:
    data = path.read_bytes()
    if path.suffix == ".gz":
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as error:
            raise InputError(f"{path} is truncated or damaged: {error}") from error
    # idx: two zero bytes, type 8 (unsigned byte), number of dimensions, big-endian sizes, values.
    header = 4 + 4 * dimensions
    if data[:4] != bytes([0, 0, 8, dimensions]):
        raise InputError(f"{path} is not an idx file of {dimensions}-dimensional unsigned bytes")
    if len(data) < header:
        raise InputError(f"{path} is truncated: it ends within its header")
    shape = tuple(np.frombuffer(data[4:header], dtype=">u4").tolist())
    values = np.frombuffer(data[header:], dtype=np.uint8)
    if values.size != math.prod(shape):
        raise InputError(f"{path} is truncated: {values.size} values, header promises {shape}")
    return torch.from_numpy(values.reshape(shape).copy())
