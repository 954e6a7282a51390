"""Sample folders: images in shards that are written whole or not at all.

A folder belongs to one run (``run.json``). Shard k holds the samples of global indices
k * shard_size and up; its last one may hold fewer. Asking for more images later adds to the
folder, asking for fewer reads less of it.
"""

import contextlib
import hashlib
import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from models.checkpoint import write_atomically

_TIMING = "timing.jsonl"


class ShardError(ValueError):
    """A sample folder cannot be used for what was asked."""


class ShardFolder:
    """The shards of one run.

    Args:
        path: the folder.
        run: everything that determines the pixels (``eval.results.content_hash`` names it).
        shard_size: indices per shard.

    Raises:
        ShardError: if the folder belongs to another run or has another shard size.
    """

    def __init__(self, path: str | Path, run: dict, shard_size: int):
        self.path, self.run, self.shard_size = Path(path), run, shard_size
        owner = read_owner(self.path)
        if owner is not None and owner["run"] != run:
            raise ShardError(
                f"samples={path} belongs to another run: {differences(owner['run'], run)}; "
                "choose another folder"
            )
        if owner is not None and owner["shard_size"] != shard_size:
            raise ShardError(
                f"samples={path} has shards of {owner['shard_size']} images, not "
                f"shard_size={shard_size}; use the same size or another folder"
            )

    def claim(self) -> None:
        """Mark the folder as this run's, if it is not yet."""
        if read_owner(self.path) is not None:
            return
        owner = {"run": self.run, "shard_size": self.shard_size}
        write_atomically(self.path / "run.json", (json.dumps(owner, indent=2) + "\n").encode())

    def indices(self, shard: int, num_images: int) -> range:
        """Global indices of ``shard`` when ``num_images`` are wanted."""
        start = shard * self.shard_size
        return range(start, min(start + self.shard_size, num_images))

    def shard_path(self, shard: int) -> Path:
        return self.path / f"shard-{shard:06d}.npz"

    def missing(self, num_images: int) -> list[int]:
        """Shards that are not there, damaged, or hold fewer images than ``num_images`` need."""
        shards = range(-(-num_images // self.shard_size))
        return [s for s in shards if not self._complete(s, len(self.indices(s, num_images)))]

    def _complete(self, shard: int, count: int) -> bool:
        try:
            images, _ = read_shard(self.shard_path(shard))
        except (ShardError, FileNotFoundError):
            return False
        return len(images) >= count

    def count(self) -> int:
        """How many images there are, counted up to the first shard that is missing or short."""
        total = 0
        for shard in itertools.count():
            try:
                images, _ = read_shard(self.shard_path(shard))
            except (ShardError, FileNotFoundError):
                return total
            total += len(images)
            if len(images) < self.shard_size:
                return total

    def write(self, shard: int, images: np.ndarray, labels: np.ndarray) -> None:
        """Store (n, H, W, C) uint8 images and (n,) int64 labels of ``shard``."""
        buffer = io.BytesIO()
        np.savez(
            buffer,
            images=images,
            labels=labels,
            start=np.int64(shard * self.shard_size),
            sha256=np.array(_digest(images, labels)),
        )
        write_atomically(self.shard_path(shard), buffer.getvalue())

    def log_timing(self, **facts) -> None:
        """Note how a shard was made, one JSON line; any number of ranks may do so at once."""
        with open(self.path / _TIMING, "a") as file:
            # The newline comes first: it ends a line that a kill has cut short.
            file.write("\n" + json.dumps(facts))

    def timings(self) -> list[dict]:
        """What ``log_timing`` noted; a line cut short by a kill is left out."""
        file = self.path / _TIMING
        timings = []
        for line in file.read_text().splitlines() if file.is_file() else []:
            with contextlib.suppress(json.JSONDecodeError):
                timings.append(json.loads(line))
        return timings

    def batches(self, num_images: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(images, labels) of every shard in order, ``num_images`` in all.

        Raises:
            ShardError: if images are missing, saying how many.
        """
        missing = self.missing(num_images)
        if missing:
            raise ShardError(
                f"samples={self.path} lacks {len(missing)} shards of {num_images} images "
                f"(first: {self.shard_path(missing[0]).name}); run scripts.sample again"
            )
        for shard in range(-(-num_images // self.shard_size)):
            images, labels = read_shard(self.shard_path(shard))
            count = len(self.indices(shard, num_images))
            yield images[:count], labels[:count]


def differences(there: dict, here: dict) -> str:
    """The entries in which two runs differ, for a message."""
    return "; ".join(
        f"{key} is {there.get(key)} there and {here.get(key)} here"
        for key in sorted(there.keys() | here.keys())
        if there.get(key) != here.get(key)
    )


def open_folder(path: str | Path) -> ShardFolder:
    """The sample folder at ``path``, whatever run it belongs to.

    Raises:
        ShardError: if it is none.
    """
    owner = read_owner(Path(path))
    if owner is None:
        raise ShardError(f"samples={path} is not a sample folder: it has no run.json")
    return ShardFolder(path, owner["run"], owner["shard_size"])


def read_owner(path: Path) -> dict | None:
    """Contents of ``run.json``, or None."""
    file = path / "run.json"
    return json.loads(file.read_text()) if file.is_file() else None


def read_shard(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(n, H, W, C) uint8 images and (n,) int64 labels of one shard.

    Raises:
        FileNotFoundError: if it is not there.
        ShardError: if it is damaged.
    """
    data = path.read_bytes()
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            images, labels, digest = file["images"], file["labels"], str(file["sha256"])
    except Exception as error:  # numpy and zipfile raise a dozen kinds on damaged bytes
        raise ShardError(f"{path} is damaged: {error}") from error
    if _digest(images, labels) != digest:
        raise ShardError(f"{path} is damaged: its checksum differs")
    return images, labels


def folder_digest(folder: ShardFolder, num_images: int) -> str:
    """SHA-256 over all images and labels in order, whatever the shards' size."""
    digest = hashlib.sha256()
    for images, labels in folder.batches(num_images):
        for image, label in zip(images, labels, strict=True):
            digest.update(image.tobytes())
            digest.update(int(label).to_bytes(8, "little"))
    return digest.hexdigest()


def _digest(images: np.ndarray, labels: np.ndarray) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(images).tobytes())
    digest.update(np.ascontiguousarray(labels, dtype=np.int64).tobytes())
    return digest.hexdigest()
