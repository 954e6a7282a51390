"""Sample folders: images in shards that are written whole or not at all.

A folder belongs to one run (``run.json``), which says how many images it is meant to have: the
most that was ever asked for. Shard k holds the samples of global indices k * shard_size and up; it
may hold fewer than it should, if fewer were wanted or its making was interrupted, and is then made
longer. Asking for more images later adds to the folder, asking for fewer reads less of it.

A shard of fewer images than ``shard_size`` has a mark beside it, made before it is stored and
removed after it has been stored in full. So when ``remove_damaged`` has seen to a folder, names
alone tell which shards are whole (see ``stitch.runs.missing``). A mark too many does no harm.
"""

import contextlib
import hashlib
import json
import os
import time
import types
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from models.files import create_exclusively, write_atomically
from stitch.runs import listing, shard_file
from stitch.runs.hashes import contents
from stitch.runs.owner import differences, encoded, read_owner, storing
from stitch.runs.records import content_hash
from stitch.runs.shard_file import ShardError

_TIMING = "timing.jsonl"
_SETTLING = 2.0  # seconds until a run.json that another process has just made has its content


class ShardFolder:
    """The shards of one run.

    Args:
        path: the folder.
        run: everything that determines the pixels (``stitch.runs.records.content_hash`` names it).
        shard_size: indices per shard.
        batch_size: chosen by this process, for ``mark`` to note; None: given, or not known.
        notes: files beside the shards that belong to the run: name -> content.

    Raises:
        ShardError: if the folder belongs to another run or has another shard size.
    """

    # What a folder of something else than images has instead; see ``stitch.runs.latents``.
    codec, suffix = shard_file, listing.SHARD
    setting, remedy = "samples", "sample again, which makes what is missing"

    def __init__(
        self,
        path: str | Path,
        run: dict,
        shard_size: int,
        batch_size: int | None = None,
        notes: Mapping[str, bytes] = types.MappingProxyType({}),
    ):
        self.path, self.run, self.shard_size = Path(path), run, shard_size
        self.batch_size, self.notes = batch_size, notes
        self._check_owner()

    def _check_owner(self) -> None:
        owner = read_owner(self.path)
        if owner is not None and owner["run"] != self.run:
            raise ShardError(
                f"{self.setting}={self.path} belongs to another run: "
                f"{differences(owner['run'], self.run)}; choose another folder"
            )
        if owner is not None and owner["shard_size"] != self.shard_size:
            raise ShardError(
                f"{self.setting}={self.path} has shards of {owner['shard_size']} images, not "
                f"shard_size={self.shard_size}; use the same size or another folder"
            )

    def mark(self, num_images: int) -> None:
        """Mark the folder as this run's, of so many images at least; the first of many runs wins.

        Raises:
            ShardError: if it became another run's in the meantime, or cannot be written to.
        """
        file = self.path / "run.json"
        with storing(file):
            if not file.exists():
                create_exclusively(file, encoded(self._owner(num_images)))
            deadline = time.monotonic() + _SETTLING
            while not file.stat().st_size and time.monotonic() < deadline:
                time.sleep(0.01)
            self._check_owner()
            owner = read_owner(self.path)
            if owner is None:
                raise ShardError(f"{file} is not of scripts.sample; choose another folder")
            noted = owner.get("batch_size")
            if self.batch_size and noted and noted != self.batch_size:
                raise ShardError(
                    f"{file} was begun with batch_size={noted} just now, this process chose "
                    f"{self.batch_size}; start it again, and it takes the same"
                )
            wanted = self._owner(max(num_images, owner.get("num_images", 0)), noted)
            if wanted != owner:
                write_atomically(file, encoded(wanted))
            for name, content in self.notes.items():
                write_atomically(self.path / name, content)

    def _owner(self, num_images: int, noted: int | None = None) -> dict:
        owner = {"run": self.run, "shard_size": self.shard_size, "num_images": num_images}
        batch_size = noted or self.batch_size
        return owner | ({"batch_size": batch_size} if batch_size else {})

    def indices(self, shard: int, num_images: int) -> range:
        """Global indices of ``shard`` when ``num_images`` are wanted."""
        start = shard * self.shard_size
        return range(start, min(start + self.shard_size, num_images))

    def shard_path(self, shard: int) -> Path:
        return listing.named(self.path, shard, self.suffix)

    def missing(self, num_images: int) -> list[int]:
        """Shards that are not there, damaged, or hold fewer images than ``num_images`` need."""
        return list(self._unfit(num_images))

    def _unfit(self, num_images: int) -> dict[int, str]:
        """The missing shards, and what is wrong with each."""
        unfit = {}
        for shard in range(-(-num_images // self.shard_size)):
            try:
                self.read_whole(shard, len(self.indices(shard, num_images)))
            except ShardError as error:
                unfit[shard] = str(error)
        return unfit

    def read_whole(self, shard: int, wanted: int) -> tuple[np.ndarray, np.ndarray]:
        """``read``, of a shard that must be there and have ``wanted`` images or more."""
        try:
            images, labels = self.read(shard)
        except FileNotFoundError as error:
            raise ShardError(f"{self.shard_path(shard)} is not there") from error
        if len(labels) < wanted:
            raise ShardError(
                f"{self.shard_path(shard)} holds {len(labels)} images instead of {wanted}"
            )
        return images, labels

    def require(self, num_images: int) -> None:
        """Verify that the first ``num_images`` images are all there, and whole.

        Raises:
            ShardError: if they are not, saying how many are missing, and why the first.
        """
        unfit = self._unfit(num_images)
        if not unfit:
            return
        lost = sum(len(self.indices(shard, num_images)) for shard in unfit)
        first = min(unfit)
        shards = "a shard" if len(unfit) == 1 else f"{len(unfit)} shards"
        whole = f", or take the images before it with num_images={first * self.shard_size}"
        raise ShardError(
            f"{self.setting}={self.path} lacks {shards} with {lost} of {num_images} images: "
            f"{unfit[first]}; {self.remedy}{whole if first else ''}"
        )

    def length(self, shard: int) -> int:
        """How many images ``shard`` says it has, 0 if it is absent or unreadable.

        Other damage than that of its end is for ``read`` and ``remove_damaged`` to find.
        """
        return self.codec.length(self.shard_path(shard))

    def lacking(self, num_images: int) -> list[int]:
        """Shards that do not say that they have their part of ``num_images``; see ``length``."""
        stored = listing.look(self.path).stored
        shards = range(-(-num_images // self.shard_size))
        return [
            shard
            for shard in shards
            if shard not in stored or self.length(shard) < len(self.indices(shard, num_images))
        ]

    def read(self, shard: int) -> tuple[np.ndarray, np.ndarray]:
        """(n, H, W, C) uint8 images and (n,) int64 labels of ``shard``.

        Raises:
            FileNotFoundError: if it is not there.
            ShardError: if it is damaged, of another run, or of other indices.
        """
        path = self.shard_path(shard)
        images, labels, start, run = self.codec.load(path)
        if start != shard * self.shard_size or len(images) > self.shard_size:
            raise ShardError(f"{path} holds {len(images)} images of index {start} and up")
        if run not in (None, content_hash(self.run)):
            raise ShardError(f"{path} is of run {run}, not of {content_hash(self.run)}")
        return images, labels

    def remove_damaged(self, num_images: int, part: int = 0, parts: int = 1) -> list[int]:
        """Verify every ``parts``-th shard from ``part`` on; delete damaged, mark short ones.

        Returns:
            The shards deleted; they count as not made yet.

        Raises:
            ShardError: if the folder cannot be written to.
        """
        removed = []
        stored = listing.look(self.path).stored
        for shard in range(part, -(-num_images // self.shard_size), parts):
            if shard not in stored:
                continue
            path = self.shard_path(shard)
            try:
                before = path.stat()
                short = len(self.read(shard)[1]) < len(self.indices(shard, num_images))
            except FileNotFoundError:
                continue
            except ShardError:
                with storing(path), contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(before, path.stat()):  # no one has made it anew
                        path.unlink()
                removed.append(shard)
                continue
            if short:
                with storing(path):
                    self._mark_short(shard)
        return removed

    def count(self) -> int:
        """How many images the run is meant to have; whether they are there, ``require`` tells.

        That is the most that was asked for, or what the last shard ends with if that is more.
        """
        stated = (read_owner(self.path) or {}).get("num_images", 0)
        last = max(listing.look(self.path).stored, default=None)
        if last is None:
            return stated
        return max(stated, last * self.shard_size + max(1, self.length(last)))

    def write(self, shard: int, images: np.ndarray, labels: np.ndarray) -> None:
        """Store (n, H, W, C) uint8 images and (n,) int64 labels of ``shard``.

        A longer shard that another process has stored meanwhile is left as it is.

        Raises:
            ShardError: if the disk is full or the folder cannot be written to.
        """
        if self.length(shard) > len(labels):
            return
        start, run = shard * self.shard_size, content_hash(self.run)
        data = self.codec.encode(images, labels, start, run)
        short = len(labels) < self.shard_size
        with storing(self.shard_path(shard)):
            try:
                if short:
                    self._mark_short(shard)
                write_atomically(self.shard_path(shard), data)
                if short:
                    self._mark_short(shard)  # again: another may have stored it in full meanwhile
                else:
                    self.unmark(shard)
            except FileNotFoundError:
                # While this process hung, another has taken the shard over and tidied up.
                if not self.path.is_dir():
                    raise

    def _mark_short(self, shard: int) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        listing.named(self.path, shard, listing.SHORT).touch()

    def unmark(self, shard: int) -> None:
        """Say by its name that ``shard`` is full; for who has seen that it is."""
        listing.named(self.path, shard, listing.SHORT).unlink(missing_ok=True)

    def log_timing(self, **facts) -> None:
        """Note how a shard was made, one JSON line; any number of ranks may do so at once."""
        with storing(self.path / _TIMING), open(self.path / _TIMING, "a") as file:
            # The newline comes first: it ends a line that a kill has cut short.
            file.write("\n" + json.dumps(facts))

    def timings(self) -> list[dict]:
        """What ``log_timing`` noted; a line that is damaged, as by a kill, is left out."""
        file = self.path / _TIMING
        timings = []
        for line in file.read_bytes().splitlines() if file.is_file() else []:
            with contextlib.suppress(ValueError):
                timings.append(json.loads(line))
        return [timing for timing in timings if isinstance(timing, dict)]

    def batches(self, num_images: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(images, labels) of every shard in order, ``num_images`` in all.

        Raises:
            ShardError: if images are missing, saying how many.
        """
        self.require(num_images)
        for shard in range(-(-num_images // self.shard_size)):
            images, labels = self.read(shard)
            count = len(self.indices(shard, num_images))
            yield images[:count], labels[:count]

    def part(self, start: int, stop: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(images, labels) of indices [start, stop) in order; a shard is read and verified once.

        Raises:
            ShardError: when a shard is reached that is missing, damaged or short, saying what the
                first ``stop`` images lack.
        """
        if start == stop:
            return
        for shard in range(start // self.shard_size, -(-stop // self.shard_size)):
            first = shard * self.shard_size
            wanted = len(self.indices(shard, stop))
            try:
                images, labels = self.read_whole(shard, wanted)
            except ShardError:
                self.require(stop)
                raise
            yield images[max(0, start - first) : wanted], labels[max(0, start - first) : wanted]


def open_folder(path: str | Path) -> ShardFolder:
    """The sample folder at ``path``, whatever run it belongs to.

    Raises:
        ShardError: if it is none.
    """
    owner = read_owner(Path(path))
    if owner is None:
        raise ShardError(f"samples={path} is not a sample folder: it has no run.json")
    return ShardFolder(path, owner["run"], owner["shard_size"])


def read_shard(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(n, H, W, C) uint8 images and (n,) int64 labels of one shard.

    Raises:
        FileNotFoundError: if it is not there.
        ShardError: if it is damaged.
    """
    images, labels, *_ = shard_file.load(path)
    return images, labels


def folder_digest(folder: ShardFolder, num_images: int) -> str:
    """``images_sha256`` of a folder: see ``stitch.runs.hashes``."""
    digest = hashlib.sha256()
    for images, labels in folder.part(0, num_images):
        for content in contents(images, labels):
            digest.update(content)
    return digest.hexdigest()
