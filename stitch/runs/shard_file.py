"""The file of one shard: images, labels, the indices they are of, their run and a checksum."""

import hashlib
import io
from pathlib import Path

import numpy as np

from models.errors import InputError
from models.npz import Npz, NpzError


class ShardError(InputError):
    """A sample folder, or a shard of it, cannot be used for what was asked."""


def encode(images: np.ndarray, labels: np.ndarray, start: int, run: str) -> bytes:
    """The bytes of a shard file, the same for the same content.

    Args:
        images, labels: (n, H, W, C) uint8 and (n,) int64.
        start: the global index of the first.
        run: the hash of the run.
    """
    buffer = io.BytesIO()
    np.savez(
        buffer,
        images=images,
        labels=labels,
        start=np.int64(start),
        stop=np.int64(start + len(labels)),
        run=np.array(run),
        sha256=np.array(_digest(images, labels)),
    )
    return buffer.getvalue()


def load(path: Path) -> tuple[np.ndarray, np.ndarray, int, str | None]:
    """Images, labels, the first global index, and the run's hash (None in the first shards).

    Raises:
        FileNotFoundError: if it is not there.
        ShardError: if it is damaged.
    """
    file = Npz(io.BytesIO(path.read_bytes()), path)
    try:
        found = {name: file.read(name) for name in file.names()}
    except NpzError as error:
        raise ShardError(f"{path} is damaged: {error.__cause__ or error}") from error
    try:
        images, labels, digest = found["images"], found["labels"], str(found["sha256"])
        start, run = int(found["start"]), str(found["run"]) if "run" in found else None
        whole = _digest(images, labels) == digest
        fits = images.dtype == np.uint8 and images.ndim == 4 and labels.shape == images.shape[:1]
    except (KeyError, TypeError, ValueError) as error:
        raise ShardError(f"{path} is damaged: {type(error).__name__}: {error}") from error
    if not whole or not fits:
        raise ShardError(f"{path} is damaged: its checksum differs")
    return images, labels, start, run


def length(path: Path) -> int:
    """How many images the file says it has, 0 if it is absent or unreadable.

    Only its end is read: other damage is for ``load``.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return len(file["labels"])
    except Exception:  # numpy and zipfile raise a dozen kinds on damaged bytes
        return 0


def _digest(images: np.ndarray, labels: np.ndarray) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(images).tobytes())
    digest.update(np.ascontiguousarray(labels, dtype=np.int64).tobytes())
    return digest.hexdigest()
