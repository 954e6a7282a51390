"""Fill sample folders: lease their shards, generate the images, store them, show the progress.

Every process calls the same, alone or as one of many ranks, launches and machines. No rank waits
for another in a collective: they find each other's shards and leases in the folder.
"""

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from stitch.runs import distributed, interrupt
from stitch.runs.leases import Leases
from stitch.runs.missing import Missing, Search
from stitch.runs.shards import ShardFolder

log = logging.getLogger("fill")

STORE_SECONDS = 60.0  # how much of a shard in hand a kill can cost
SHOWN = 0.01  # of the main rank's time that may go into looking how far all ranks are

# Global indices of a batch, its (B, H, W, C) uint8 images on the host, and B labels.
Batch = tuple[range, np.ndarray, list[int]]


def verify(folder: ShardFolder, num_images: int) -> None:
    """Make ``folder`` ready for its run; each rank verifies a part of its shards.

    None may ``fill`` it before all are done.

    Raises:
        ShardError: if the folder is of another run, or cannot be written to.
    """
    folder.mark(num_images)
    folder.remove_damaged(num_images, distributed.rank(), distributed.world_size())


def begin(folder: ShardFolder, num_images: int) -> int:
    """``verify`` a folder by all ranks together.

    Returns:
        How many of the images are not there.

    Raises:
        ShardError: as ``verify`` does; the other ranks wait, until their launcher ends them.
    """
    verify(folder, num_images)
    distributed.barrier()
    # One rank looks, and no other begins before it has.
    return distributed.from_main(lambda: Missing(folder, num_images).images())


def fill(
    folder: ShardFolder,
    num_images: int,
    generate: Callable[[range], Iterator[Batch]],
    batch_size: int,
    title: str = "",
    facts: dict | None = None,
    only: int | None = None,
) -> bool:
    """Return when all shards of ``num_images`` images are there, whoever made them.

    Args:
        folder: one that ``verify`` has made ready, by all ranks.
        generate: the batches of a range of indices, in order.
        batch_size: images of a batch; of a shard that was interrupted, whole ones are kept.
        title: of the progress bar; without one there is none.
        facts: what ``folder.log_timing`` notes of each shard beside the time.
        only: the one shard to make; if somebody else is at it, return at once.

    Returns:
        Whether the shards are there: False is for ``only``.

    Raises:
        ShardError: if the folder cannot be written to.
        SystemExit: when interrupted, after the batch in hand; finished ones are stored.
    """
    missing = Missing(folder, num_images, only)
    if not missing.shards:
        return True
    made, waiting_since = False, None
    with (
        interrupt.interruptible() as interrupted,
        Leases(folder.path) as leases,
        _Writer() as writer,
        _Bar(title, missing, leases) as bar,
    ):
        search = Search(missing, leases, distributed.rank(), distributed.world_size())
        while not interrupted():
            shard = search.take()
            if shard is not None:
                work = _Work(missing, shard, batch_size, facts or {})
                work.run(generate, leases, writer, bar, interrupted)
                made, waiting_since = True, None
                continue
            writer.wait()
            if not search.outdated:
                if only is not None or not missing.shards:
                    break
                if waiting_since is None:
                    waiting_since = time.monotonic()
                    if not made:
                        _warn(num_images, batch_size, len(missing.shards))
                bar.update()
                _sleep(search.pause(time.monotonic() - waiting_since), interrupted)
                if not search.may_go_on():
                    continue
            search.look()
        else:
            return False
    missing.tidy(leases)
    return not missing.shards


def _warn(num_images: int, batch_size: int, shards: int) -> None:
    """Say that this rank has nothing to do, and what would help."""
    rank, ranks = distributed.rank(), distributed.world_size()
    share = num_images // ranks // batch_size * batch_size
    log.warning(
        "rank %d of %d has no shard to make, all %d missing ones are taken; %s",
        rank,
        ranks,
        shards,
        f"shard_size={share} or less would give every rank one"
        if share
        else f"{num_images} images are fewer than a batch of {batch_size} for every rank: take "
        "fewer ranks, or lower batch_size and shard_size",
    )


def _sleep(seconds: float, interrupted: Callable[[], bool]) -> None:
    """Sleep, but notice soon when interrupted."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and not interrupted():
        time.sleep(min(left, 0.5))


class _Work:
    """One leased shard: its images so far, and what is to be made."""

    def __init__(self, missing: Missing, shard: int, batch_size: int, facts: dict):
        self.folder, self.shard, self.facts = missing.folder, shard, facts
        self.indices = self.folder.indices(shard, missing.num_images)
        missing.remove_leftovers(shard)
        self.images, self.labels = [], []
        self.made, self.seconds = 0, 0.0
        there = self.folder.length(shard)
        if there >= self.folder.shard_size:
            self.folder.unmark(shard)
        if there >= len(self.indices):
            self.indices = range(0)  # finished by another process before it was leased
        elif whole := there // batch_size * batch_size:
            images, labels = self.folder.read(shard)
            self.images, self.labels = [images[:whole]], labels[:whole].tolist()

    def run(
        self,
        generate: Callable[[range], Iterator[Batch]],
        leases: Leases,
        writer: "_Writer",
        bar: "_Bar",
        interrupted: Callable[[], bool],
    ) -> None:
        """Generate until the shard is whole or this process is interrupted; store the batches."""
        stored = began = time.monotonic()
        for batch, images, labels in generate(self.indices[len(self.labels) :]):
            self.seconds += time.monotonic() - began
            self.made += len(batch)
            self.images.append(images)
            self.labels += labels
            leases.report(self.shard, len(self.labels))
            bar.update()
            if interrupted():
                break
            if time.monotonic() - stored > STORE_SECONDS and batch.stop < self.indices.stop:
                writer.submit(self._store, list(self.images), list(self.labels))
                stored = time.monotonic()
            began = time.monotonic()
        writer.submit(self._finish, leases)

    def _store(self, images: list[np.ndarray], labels: list[int]) -> None:
        self.folder.write(self.shard, np.concatenate(images), np.array(labels))

    def _finish(self, leases: Leases) -> None:
        if self.made:
            self._store(self.images, self.labels)
            self.folder.log_timing(
                shard=self.shard, images=self.made, seconds=round(self.seconds, 4), **self.facts
            )
        leases.release(self.shard)


class _Writer:
    """One thread that stores shards while the next ones are made; at most one waits for it."""

    def __init__(self):
        self._pool = ThreadPoolExecutor(1)
        self._last = None

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, kind, *error) -> None:
        self._pool.shutdown()
        if kind is None:
            self.wait()

    def submit(self, task: Callable, *arguments) -> None:
        """Have ``task`` done next. Raises what the one before raised."""
        self.wait()
        self._last = self._pool.submit(task, *arguments)

    def wait(self) -> None:
        if self._last is not None:
            self._last.result()


class _Bar:
    """Progress of all ranks and launches, shown by the main rank: images, images/s, time left."""

    def __init__(self, title: str, missing: Missing, leases: Leases):
        self.missing, self.leases = missing, leases
        self.shown = bool(title) and distributed.is_main()
        self.looked, self.every = time.monotonic(), 1.0
        total = missing.num_images
        self.bar = tqdm(
            desc=title,
            total=total,
            initial=total - missing.images() if self.shown else 0,
            unit="img",
            smoothing=0,
            leave=None,
            disable=not self.shown,
        )

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *error) -> None:
        self.update(final=True)
        self.bar.close()

    def update(self, final: bool = False) -> None:
        """Look at the folder and its leases, once a second or, if that takes long, less often."""
        began = time.monotonic()
        if not self.shown or (not final and began - self.looked < self.every):
            return
        self.missing.look()
        there = self.missing.num_images - self.missing.images(self.leases.progress())
        self.bar.update(max(0, there - self.bar.n))
        self.looked = time.monotonic()
        self.every = max(1.0, (self.looked - began) / SHOWN)
