"""Where images come from: sample folders, folders of PNG and JPEG files, ADM's npz files.

All are read as a stream, in a fixed order, from any index on.
"""

import functools
import hashlib
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from eval.shards import ShardFolder, folder_digest, open_folder, read_owner, read_shard
from models.checkpoint import sha256_of
from models.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg")
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError)  # what reading a member may raise
_CHANNELS = {"RGB": 3, "L": 1}  # by PIL's mode


class ImageError(InputError):
    """Images cannot be used; the message names the file and the fix."""


class Images(Protocol):
    """N images of one size.

    Attributes:
        path: where they are.
        count: N.
        run: all that determines the pixels (``ShardFolder.run``), or None if that is unknown.
    """

    path: Path
    count: int
    run: dict | None

    def read(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """Images of indices [start, stop) in order, as (n, H, W, 1 or 3) uint8 arrays of any n."""

    def sha256(self, count: int) -> str:
        """Hash that tells the first ``count`` images from any others."""


def open_images(path: str | Path, setting: str = "samples") -> Images:
    """The images at ``path``.

    Args:
        setting: its name, for messages.

    Raises:
        ImageError: if there are none, or they are not all uint8 of one size, gray or RGB.
    """
    path = Path(path)
    if path.suffix == ".npz" and path.is_file():
        return NpzImages(path)
    if read_owner(path) is not None:
        return ShardImages(open_folder(path))
    if path.is_dir() and any(_image_files(path)):
        return FolderImages(path)
    raise ImageError(
        f"{setting}={path} is not a sample folder (it has no run.json), no folder with files "
        f"{', '.join(SUFFIXES)}, and no .npz file"
    )


def blocks(images: Images, start: int, stop: int, size: int) -> Iterator[np.ndarray]:
    """Images of indices [start, stop) in blocks of ``size``, the last one maybe shorter."""
    held: list[np.ndarray] = []
    for part in images.read(start, stop):
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


class ShardImages:
    """The images of a folder of ``scripts.sample``."""

    def __init__(self, folder: ShardFolder):
        self.folder, self.path, self.run = folder, folder.path, folder.run

    @functools.cached_property
    def count(self) -> int:
        return self.folder.count()

    def read(self, start: int, stop: int) -> Iterator[np.ndarray]:
        size = self.folder.shard_size
        for shard in range(start // size, -(-stop // size)):
            images, _ = read_shard(self.folder.shard_path(shard))
            yield images[max(0, start - shard * size) : stop - shard * size]

    def sha256(self, count: int) -> str:
        return folder_digest(self.folder, count)


class FolderImages:
    """The PNG and JPEG files below a folder, sorted by path."""

    run = None

    def __init__(self, path: Path):
        self.path = path
        self.files = sorted(_image_files(path))
        self.count = len(self.files)
        kinds: dict[tuple, Path] = {}
        for file in self.files:
            kinds.setdefault(_kind(file), file)
        if len(kinds) > 1:
            (first, one), (second, other), *_ = kinds.items()
            raise ImageError(
                f"images below {path} are mixed: {one} is {_said(first)}, {other} is "
                f"{_said(second)}; metrics need one size and one number of channels"
            )

    def read(self, start: int, stop: int) -> Iterator[np.ndarray]:
        with ThreadPoolExecutor() as pool:
            for begin in range(start, stop, 100):
                files = self.files[begin : min(begin + 100, stop)]
                yield np.stack(list(pool.map(_decode, files)))

    def sha256(self, count: int) -> str:
        digest = hashlib.sha256()
        for file in self.files[:count]:
            digest.update(bytes.fromhex(sha256_of(file)))
        return digest.hexdigest()


class NpzImages:
    """``arr_0``, (N, H, W, 1 or 3) uint8, of an npz file as ADM's evaluator reads it."""

    run = None

    def __init__(self, path: Path):
        self.path = path
        with self._open() as member:
            self.shape = _read_header(member, path)
        self.count = self.shape[0]

    def read(self, start: int, stop: int) -> Iterator[np.ndarray]:
        size = int(np.prod(self.shape[1:]))
        step = max(1, 2**24 // size)  # 16 MB
        with self._open() as member:
            _read_header(member, self.path)
            for begin in range(start, stop, step):
                count = min(step, stop - begin)
                try:
                    if begin == start:
                        member.seek(start * size, 1)
                    data = member.read(count * size)
                except _DAMAGE as error:
                    raise ImageError(f"{self.path} is damaged: {error}") from error
                if len(data) < count * size:
                    raise ImageError(f"{self.path} is truncated: arr_0 ends before {self.shape}")
                yield np.frombuffer(data, np.uint8).reshape(count, *self.shape[1:])

    def sha256(self, count: int) -> str:
        return sha256_of(self.path)

    def _open(self):
        try:
            file = zipfile.ZipFile(self.path)
        except zipfile.BadZipFile as error:
            raise ImageError(f"{self.path} is no npz file, or truncated: {error}") from error
        if "arr_0.npy" not in file.namelist():
            names = ", ".join(name.removesuffix(".npy") for name in file.namelist())
            raise ImageError(f"{self.path} has no arr_0 (the images); it has {names or 'nothing'}")
        return file.open("arr_0.npy")


def _read_header(member, path: Path) -> tuple[int, ...]:
    """Shape of the array whose values come next in ``member``."""
    try:
        version = np.lib.format.read_magic(member)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran, dtype = read(member)
    except (ValueError, KeyError, *_DAMAGE) as error:
        raise ImageError(f"arr_0 of {path} is damaged or no numpy array: {error}") from error
    if dtype.hasobject:
        raise ImageError(
            f"arr_0 of {path} holds pickled objects, which may run code when read; they are "
            "refused: store the images as one uint8 array"
        )
    if dtype != np.uint8 or len(shape) != 4 or shape[-1] not in (1, 3) or fortran:
        order = " in Fortran order" if fortran else ""
        raise ImageError(
            f"arr_0 of {path} is {dtype} {shape}{order}; images are uint8 (N, H, W, 3) or "
            "(N, H, W, 1) in C order, 0 to 255"
        )
    return shape


def _image_files(path: Path) -> Iterable[Path]:
    return (file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)


def _kind(file: Path) -> tuple[int, int, int]:
    """Height, width and channels, from the head of a file."""
    try:
        with Image.open(file) as image:
            mode, (width, height) = image.mode, image.size
    except OSError as error:
        raise ImageError(f"{file} cannot be read as an image: {error}") from error
    if mode not in _CHANNELS:
        raise ImageError(f"{file} is an image of mode {mode}; images are 8-bit RGB or gray (L)")
    return height, width, _CHANNELS[mode]


def _said(kind: tuple[int, int, int]) -> str:
    return "x".join(map(str, kind))


def _decode(file: Path) -> np.ndarray:
    try:
        with Image.open(file) as image:
            pixels = np.asarray(image)
    except (OSError, SyntaxError) as error:  # PIL raises both on damaged files
        raise ImageError(f"{file} cannot be read as an image: {error}") from error
    return pixels if pixels.ndim == 3 else pixels[..., None]
