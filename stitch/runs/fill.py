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
from stitch.runs.shards import ShardFolder

log = logging.getLogger("fill")

STORE_SECONDS = 60.0  # how much of a shard in hand a kill can cost
POLL_SECONDS = 0.5

# Global indices of a batch, its (B, H, W, C) uint8 images on the host, and B labels.
Batch = tuple[range, np.ndarray, list[int]]


def begin(folder: ShardFolder, num_images: int) -> int:
    """Make ``folder`` ready for its run, by all ranks together; each verifies a part of its shards.

    Returns:
        How many of the images are not there.

    Raises:
        ShardError: if the folder is of another run, or cannot be written to.
    """
    folder.mark(num_images)
    folder.remove_damaged(num_images, distributed.rank(), distributed.world_size())
    distributed.barrier()
    missing = _Remaining(folder, num_images).images()
    distributed.barrier()  # no rank finishes a shard before all have looked
    return missing


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
    remaining = _Remaining(folder, num_images)
    if only is not None:
        remaining.shards = {s: there for s, there in remaining.shards.items() if s == only}
    if not remaining.shards:
        return True
    # Ranks begin apart from one another, so that few want the same shard.
    first = distributed.rank() * len(remaining.shards) // distributed.world_size()
    order = [*remaining.shards][first:] + [*remaining.shards][:first]
    made = waited = False
    with (
        interrupt.interruptible() as interrupted,
        Leases(folder.path) as leases,
        _Writer() as writer,
        _Bar(title, remaining, leases) as bar,
    ):
        while not interrupted():
            remaining.look()
            shard = next((s for s in order if s in remaining.shards and leases.take(s)), None)
            if shard is not None:
                work = _Work(folder, shard, num_images, batch_size, facts or {})
                work.run(generate, leases, writer, bar, interrupted)
                made = True
                continue
            writer.wait()
            remaining.look()
            if only is not None:
                return not remaining.shards
            if not remaining.shards:
                break
            if not made and not waited:
                log.warning(
                    "rank %d of %d has no shard to make, all %d missing ones are taken; "
                    "a smaller shard_size would give it work",
                    distributed.rank(),
                    distributed.world_size(),
                    len(remaining.shards),
                )
            waited = True
            bar.update()
            time.sleep(POLL_SECONDS)
        else:
            return False
    for shard in range(-(-num_images // folder.shard_size)):
        leases.remove_abandoned(shard)  # of processes killed after their last shard
    return True


class _Work:
    """One leased shard: its images so far, and what is to be made."""

    def __init__(
        self, folder: ShardFolder, shard: int, num_images: int, batch_size: int, facts: dict
    ):
        self.folder, self.shard, self.batch_size, self.facts = folder, shard, batch_size, facts
        self.indices = folder.indices(shard, num_images)
        folder.remove_leftovers(shard)
        self.images, self.labels = [], []
        self.made, self.seconds = 0, 0.0
        there = folder.length(shard)
        if there >= len(self.indices):
            self.indices = range(0)  # finished by another process before it was leased
        elif whole := there // batch_size * batch_size:
            images, labels = folder.read(shard)
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


class _Remaining:
    """Which shards are not whole yet, by what the folder shows.

    Attributes:
        shards: shard -> how many of its images are stored.
    """

    def __init__(self, folder: ShardFolder, num_images: int):
        self.folder, self.num_images = folder, num_images
        self.shards = dict.fromkeys(range(-(-num_images // folder.shard_size)), 0)
        self.look()

    def look(self) -> None:
        for shard in list(self.shards):
            self.shards[shard] = self.folder.length(shard)
            if self.shards[shard] >= len(self.folder.indices(shard, self.num_images)):
                del self.shards[shard]

    def images(self, leased: dict[int, int] | None = None) -> int:
        """How many images are not there, those that leases speak of not counted."""
        return sum(
            len(self.folder.indices(shard, self.num_images))
            - max(there, (leased or {}).get(shard, 0))
            for shard, there in self.shards.items()
        )


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

    def __init__(self, title: str, remaining: _Remaining, leases: Leases):
        self.remaining, self.leases = remaining, leases
        self.looked = time.monotonic()
        total = remaining.num_images
        self.bar = tqdm(
            desc=title,
            total=total,
            initial=total - remaining.images(),
            unit="img",
            smoothing=0,
            disable=not (title and distributed.is_main()),
        )

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *error) -> None:
        self.update(final=True)
        self.bar.close()

    def update(self, final: bool = False) -> None:
        """Look at the folder, at most once a second."""
        if self.bar.disable or (not final and time.monotonic() - self.looked < 1):
            return
        self.remaining.look()
        there = self.remaining.num_images - self.remaining.images(self.leases.progress())
        self.bar.update(max(0, there - self.bar.n))
        self.looked = time.monotonic()
