"""Sample folders: images in shards that are written whole or not at all.

A folder belongs to one run (``run.json``). Shard k holds the samples of global indices
k * shard_size and up; it may hold fewer than it should, if fewer were wanted or its making was
interrupted, and is then made longer. Asking for more images later adds to the folder, asking for
fewer reads less of it.
"""

import contextlib
import hashlib
import io
import itertools
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from eval.results import content_hash
from models.checkpoint import write_atomically
from models.errors import InputError

_TIMING = "timing.jsonl"


class ShardError(InputError):
    """A sample folder cannot be used for what was asked."""


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn a full disk, a quota or missing rights into one error that says what to do."""
    try:
        yield
    except OSError as error:
        raise ShardError(
            f"cannot write {path}: {error.strerror}; nothing finished is lost: make room or mend "
            "the folder, and the same command goes on"
        ) from error


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
        self._check_owner()

    def _check_owner(self) -> None:
        owner = read_owner(self.path)
        if owner is not None and owner["run"] != self.run:
            raise ShardError(
                f"samples={self.path} belongs to another run: "
                f"{differences(owner['run'], self.run)}; choose another folder"
            )
        if owner is not None and owner["shard_size"] != self.shard_size:
            raise ShardError(
                f"samples={self.path} has shards of {owner['shard_size']} images, not "
                f"shard_size={self.shard_size}; use the same size or another folder"
            )

    def claim(self) -> None:
        """Mark the folder as this run's, if it is not yet; of many at once, the first one wins.

        Raises:
            ShardError: if it became another run's in the meantime, or cannot be written to.
        """
        owner = {"run": self.run, "shard_size": self.shard_size}
        file = self.path / "run.json"
        temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex}.tmp")
        if not file.exists():
            with storing(file):
                try:
                    write_atomically(temporary, (json.dumps(owner, indent=2) + "\n").encode())
                    with contextlib.suppress(FileExistsError):
                        os.link(temporary, file)
                finally:
                    temporary.unlink(missing_ok=True)
        self._check_owner()

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
            return len(self.read(shard)[1]) >= count
        except (ShardError, FileNotFoundError):
            return False

    def length(self, shard: int) -> int:
        """How many images ``shard`` says it has, 0 if it is absent or unreadable.

        Only its end is read: other damage is for ``read`` and ``remove_damaged`` to find.
        """
        try:
            with np.load(self.shard_path(shard), allow_pickle=False) as file:
                return len(file["labels"])
        except Exception:  # numpy and zipfile raise a dozen kinds on damaged bytes
            return 0

    def whole(self, num_images: int) -> bool:
        """Whether every shard says that it has its part of ``num_images``; see ``length``."""
        shards = range(-(-num_images // self.shard_size))
        return all(self.length(s) >= len(self.indices(s, num_images)) for s in shards)

    def read(self, shard: int) -> tuple[np.ndarray, np.ndarray]:
        """(n, H, W, C) uint8 images and (n,) int64 labels of ``shard``.

        Raises:
            FileNotFoundError: if it is not there.
            ShardError: if it is damaged, of another run, or of other indices.
        """
        path = self.shard_path(shard)
        images, labels, start, run = _load(path)
        if start != shard * self.shard_size:
            raise ShardError(f"{path} holds the images of index {start} and up")
        if run not in (None, content_hash(self.run)):
            raise ShardError(f"{path} is of run {run}, not of {content_hash(self.run)}")
        return images, labels

    def remove_damaged(self, num_images: int, part: int = 0, parts: int = 1) -> list[int]:
        """Verify every ``parts``-th shard from ``part`` on, and delete those that are damaged.

        Returns:
            The shards deleted; they count as not made yet.
        """
        removed = []
        for shard in range(part, -(-num_images // self.shard_size), parts):
            path = self.shard_path(shard)
            try:
                before = path.stat()
                self.read(shard)
            except FileNotFoundError:
                continue
            except ShardError:
                with storing(path), contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(before, path.stat()):  # no one has made it anew
                        path.unlink()
                removed.append(shard)
        return removed

    def remove_leftovers(self, shard: int) -> None:
        """Delete what a killed process left of ``shard``; for who has claimed it."""
        for path in self.path.glob(f".{self.shard_path(shard).name}.*.tmp"):
            path.unlink(missing_ok=True)

    def count(self) -> int:
        """How many images there are, counted up to the first shard that is missing or short."""
        total = 0
        for shard in itertools.count():
            try:
                images, _ = self.read(shard)
            except (ShardError, FileNotFoundError):
                return total
            total += len(images)
            if len(images) < self.shard_size:
                return total

    def write(self, shard: int, images: np.ndarray, labels: np.ndarray) -> None:
        """Store (n, H, W, C) uint8 images and (n,) int64 labels of ``shard``.

        A longer shard that another process has stored meanwhile is left as it is.

        Raises:
            ShardError: if the disk is full or the folder cannot be written to.
        """
        if self.length(shard) > len(labels):
            return
        start = shard * self.shard_size
        buffer = io.BytesIO()
        np.savez(
            buffer,
            images=images,
            labels=labels,
            start=np.int64(start),
            stop=np.int64(start + len(labels)),
            run=np.array(content_hash(self.run)),
            sha256=np.array(_digest(images, labels)),
        )
        with storing(self.shard_path(shard)):
            try:
                write_atomically(self.shard_path(shard), buffer.getvalue())
            except FileNotFoundError:
                # While this process hung, another has taken the shard over and tidied up.
                if not self.path.is_dir():
                    raise

    def log_timing(self, **facts) -> None:
        """Note how a shard was made, one JSON line; any number of ranks may do so at once."""
        with storing(self.path / _TIMING), open(self.path / _TIMING, "a") as file:
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
            images, labels = self.read(shard)
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
    images, labels, *_ = _load(path)
    return images, labels


def _load(path: Path) -> tuple[np.ndarray, np.ndarray, int, str | None]:
    """Images, labels, the first global index, and the run's hash (None in the first shards)."""
    data = path.read_bytes()
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            images, labels, digest = file["images"], file["labels"], str(file["sha256"])
            start, run = int(file["start"]), str(file["run"]) if "run" in file else None
    except Exception as error:  # numpy and zipfile raise a dozen kinds on damaged bytes
        raise ShardError(f"{path} is damaged: {error}") from error
    if _digest(images, labels) != digest:
        raise ShardError(f"{path} is damaged: its checksum differs")
    return images, labels, start, run


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
