"""Where images come from: sample folders, folders of picture files, ADM's npz files.

All are read as a stream, in a fixed order, from any index on.
"""

import functools
import hashlib
import itertools
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from eval.pictures import ImageError, decode, decode_resized, find_pictures, kind, turned
from models.files import sha256_of
from models.npz import Npz
from stitch.runs import prompts
from stitch.runs.owner import read_owner
from stitch.runs.shards import ShardFolder, folder_digest, open_folder

log = logging.getLogger("images")


class Images(Protocol):
    """N images of one size.

    Attributes:
        path: where they are.
        count: N; of a run, how many it is meant to have.
        run: all that determines the pixels (``ShardFolder.run``), or None if that is unknown.
        classes: what class each image is of, if the files say so: N names or numbers.
    """

    path: Path
    count: int
    run: dict | None
    classes: Sequence | None

    def require(self, count: int) -> None:
        """Make sure that the first ``count`` images are there and whole, if that can be told.

        Raises:
            InputError: if they are not; the message names the first file.
        """

    def read(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """Images of indices [start, stop) in order, as (n, H, W, 1 or 3) uint8 arrays of any n."""

    def sha256(self, count: int) -> str:
        """Hash that tells the first ``count`` images from any others."""


def open_images(path: str | Path, setting: str = "samples") -> Images:
    """The images at ``path``.

    Args:
        setting: its name, for messages.

    Raises:
        InputError: if there are none, or they are not all uint8 of one size, gray or RGB.
    """
    path = Path(path)
    if path.suffix == ".npz" and path.is_file():
        return NpzImages(path)
    if read_owner(path) is not None:
        return ShardImages(open_folder(path))
    if path.is_dir():
        return FolderImages(path, setting=setting)
    raise ImageError(
        f"{setting}={path} is not a sample folder (it has no run.json), no folder of pictures such "
        "as .png, .jpg or .webp, and no .npz file"
    )


def warn_if_held_out(path: str | Path, setting: str) -> None:
    """Say so if a reference is of held-out images by the name of its folder.

    Published references are of the training images; FID against others is another number.
    """
    if Path(path).stem.lower() in ("val", "valid", "validation", "test"):
        log.warning(
            "warning: %s=%s is of held-out images by its name; published references are of the "
            "training images, and FID against others is another number",
            setting,
            path,
        )


def blocks(images: Images, start: int, stop: int, size: int) -> Iterator[np.ndarray]:
    """Images of indices [start, stop) in blocks of ``size``, the last one maybe shorter."""
    return regroup(images.read(start, stop), size)


def regroup(parts: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Images of any parts in blocks of ``size``, the last one maybe shorter."""
    held: list[np.ndarray] = []
    for part in parts:
        held.append(part)
        while sum(map(len, held)) >= size:
            whole = np.concatenate(held)
            yield whole[:size]
            held = [whole[size:]]
    if sum(map(len, held)):
        yield np.concatenate(held)


def share(count: int, size: int, rank: int, ranks: int) -> tuple[int, int]:
    """The indices [start, stop) of one of several ranks, cut at multiples of ``size``.

    Blocks are the same for any number of ranks; shares differ by one block at most, and the
    first rank has a block if there is one.
    """
    whole = -(-count // size)
    return tuple(min(-(-whole * r // ranks) * size, count) for r in (rank, rank + 1))


def warnings(images: Images, count: int, chunk: int | None) -> list[str]:
    """What is doubtful about metrics of the first ``count`` images, for people.

    Images that lie class by class make the first of them, and the chunks of the Inception Score,
    images of some classes.

    Args:
        chunk: images in a chunk of the Inception Score; None if there is none.
    """
    classes = list(images.classes or ())
    changes = sum(a != b for a, b in itertools.pairwise(classes))
    known = len(set(classes))
    if known < 2 or changes + 1 > known:  # none known, or not class by class
        return []
    found = []
    there = len(set(classes[:count]))
    if there < known:
        found.append(
            f"the first {count} of {len(classes)} images are of {there} of {known} classes, for "
            f"{images.path} has them class by class"
        )
    if chunk is not None and chunk < count and there > 1:
        least = min(len(set(classes[i : min(i + chunk, count)])) for i in range(0, count, chunk))
        if least < there:
            found.append(
                f"the Inception Score is of chunks of eval.chunk={chunk} images, one of them with "
                f"{least} of {there} classes, for {images.path} has them class by class"
            )
    return found


class RunImages(Images, Protocol):
    """The images of a run, with their labels.

    They are verified when they are read, and hashed in the pass that needs them.

    Attributes:
        unit: images of a file, or made together; ranks best share them in multiples of it.
    """

    run: dict
    unit: int

    def look(self, count: int) -> None:
        """Make sure, as far as can be told without reading them, that ``count`` images are there.

        Raises:
            InputError: if they are not.
        """

    def labelled(self, start: int, stop: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """``read``, with labels. Raises InputError at what is missing or damaged."""

    def timings(self) -> list[dict]:
        """How the images were made: see ``ShardFolder.log_timing``."""

    def prompts(self, count: int) -> list[str] | None:
        """Those of the first ``count`` images, if they were made of prompts."""


class ShardImages:
    """The images of a folder of ``scripts.sample``."""

    classes = None

    def __init__(self, folder: ShardFolder):
        self.folder, self.path, self.run = folder, folder.path, folder.run
        self.unit = folder.shard_size

    @functools.cached_property
    def count(self) -> int:
        return self.folder.count()

    def require(self, count: int) -> None:
        self.folder.require(count)

    def look(self, count: int) -> None:
        if self.folder.lacking(count):
            self.folder.require(count)  # says what is wrong

    def labelled(self, start: int, stop: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return self.folder.part(start, stop)

    def read(self, start: int, stop: int) -> Iterator[np.ndarray]:
        return (images for images, _ in self.labelled(start, stop))

    def sha256(self, count: int) -> str:
        return folder_digest(self.folder, count)

    def timings(self) -> list[dict]:
        return self.folder.timings()

    def prompts(self, count: int) -> list[str] | None:
        return prompts.of_images(self.path, self.run, count)


class FolderImages:
    """The files of pictures below a folder, sorted by path (see ``eval.pictures``).

    Gray ones among colour ones are given as colour. Classes are the folders they are in.

    Args:
        path: the folder.
        resized: None for pictures of one size; or what brings those of any size and mode to one,
            as RGB arrays (see ``eval.pictures.centre_crop``).
        upright: with ``resized``, turn pictures as EXIF says.
        setting: the folder's, for messages.

    Attributes:
        turned: with ``resized``, how many files have an EXIF orientation that is not upright.
    """

    run = None

    def __init__(
        self,
        path: Path,
        resized: Callable[[Image.Image], np.ndarray] | None = None,
        upright: bool = False,
        setting: str = "images",
    ):
        self.path = Path(path)
        self.files = find_pictures(self.path)
        self.count = len(self.files)
        if not self.files:
            raise ImageError(f"{setting}={path} is a folder without pictures and without run.json")
        self.classes = [str(file.parent) for file in self.files]
        if resized is None:
            self._decode = functools.partial(decode, channels=self._channels())
        else:
            self.turned = sum(self._all(turned))
            self._decode = functools.partial(decode_resized, resized=resized, upright=upright)

    def _all(self, function: Callable) -> list:
        with ThreadPoolExecutor() as pool:
            return list(pool.map(function, self.files))

    def _channels(self) -> int:
        """Those of the pictures, which must be of one size."""
        kinds = self._all(kind)
        sizes: dict[tuple[int, int], Path] = {}
        for (height, width, _), file in zip(kinds, self.files, strict=True):
            sizes.setdefault((height, width), file)
        if len(sizes) > 1:
            (first, one), (second, other), *_ = sizes.items()
            raise ImageError(
                f"images below {self.path} are mixed: {one} is {_said(first)}, {other} is "
                f"{_said(second)}; metrics need one size (scripts.reference with images.resize "
                "makes a reference of pictures of all sizes)"
            )
        return max(channels for _, _, channels in kinds)

    def require(self, count: int) -> None:
        pass  # every file was looked at; damage inside one is found when it is decoded

    def read(self, start: int, stop: int) -> Iterator[np.ndarray]:
        with ThreadPoolExecutor() as pool:
            for begin in range(start, stop, 100):
                files = self.files[begin : min(begin + 100, stop)]
                yield np.stack(list(pool.map(self._decode, files)))

    def sha256(self, count: int) -> str:
        digest = hashlib.sha256()
        for file in self.files[:count]:
            digest.update(bytes.fromhex(sha256_of(file)))
        return digest.hexdigest()


class NpzImages:
    """``arr_0``, (N, H, W, 1 or 3) uint8, of an npz file as ADM's evaluator reads it.

    Classes are ``arr_1``, if there is one (N,) of whole numbers.
    """

    run = None

    def __init__(self, path: Path):
        self.path, self.file = path, Npz(path)
        self.shape, fortran, dtype = self.file.layout("arr_0")
        if (
            dtype != np.uint8
            or len(self.shape) != 4
            or self.shape[-1] not in (1, 3)
            or 0 in self.shape
            or fortran
        ):
            order = " in Fortran order" if fortran else ""
            raise ImageError(
                f"arr_0 of {path} is {dtype} {self.shape}{order}; images are uint8 (N, H, W, 3) or "
                "(N, H, W, 1) in C order, 0 to 255"
            )
        self.count = self.shape[0]

    @functools.cached_property
    def classes(self) -> list[int] | None:
        if "arr_1" not in self.file.names():
            return None
        shape, _, dtype = self.file.layout("arr_1")
        if shape != (self.count,) or dtype.kind not in "iu":
            return None
        return self.file.read("arr_1").tolist()

    def require(self, count: int) -> None:
        self.file.check("arr_0")

    def read(self, start: int, stop: int) -> Iterator[np.ndarray]:
        size = math.prod(self.shape[1:])
        return self.file.rows("arr_0", start, stop, max(1, 2**24 // size))  # 16 MB

    def sha256(self, count: int) -> str:
        return sha256_of(self.path)


def _said(size: tuple[int, int]) -> str:
    return "x".join(map(str, size))
