"""Ranks that share one folder, simulated event by event; what a rank does is in ``ways``.

What is simulated are leases, shards, what is asked of the file system, deaths and restarts. Time
passes by measured or assumed costs; the file system is one server, which does one operation after
the other.
"""

import heapq
import itertools
import random
from collections.abc import Generator, Iterator
from dataclasses import dataclass

from stitch.runs.fill import STORE_SECONDS
from tests.measure.scale import ways

BEAT = 5.0  # seconds between two signs of life of a lease, as in stitch.runs.leases
DAY = 86400.0
# Operations to lease a shard and see what is there of it; and all of a shard. strace counts 34
# system calls for one, 7 of which only ask for attributes.
LEASING, STORING = 3, 27


@dataclass(frozen=True)
class Storage:
    """What a file system takes.

    Attributes:
        latency: seconds of an operation (open, create, unlink, ...), for the process that waits.
        capacity: operations per second that the server of all can do.
        names: names that one operation of a listing gives.
        bandwidth: bytes per second at which one rank can write.
    """

    latency: float
    capacity: float
    names: int = 500
    bandwidth: float = 1e9


@dataclass(frozen=True)
class Job:
    """What is to be made, and by whom.

    Attributes:
        image_seconds: of one image by one rank; ``spread`` is how far ranks differ in it (the
            standard deviation, as a share).
        image_bytes: of one image.
        failures_per_day: deaths of a rank a day; or ``kills``, as (seconds, rank).
        restart: seconds from a death to the first look of the process that stands in.
        together: whether all ranks end when one dies and start again, as under one torchrun.
        node: ranks of one machine, who see at once that one of them is dead.
        names: whether ranks look at names only, or open what is missing as they once did.
    """

    ranks: int
    images: int
    shard_size: int
    batch_size: int
    image_seconds: float
    storage: Storage
    spread: float = 0.0
    image_bytes: int = 256 * 256 * 3
    failures_per_day: float = 0.0
    kills: tuple[tuple[float, int], ...] = ()
    restart: float = 60.0
    together: bool = False
    node: int = 8
    names: bool = True
    seed: int = 0


@dataclass
class Result:
    """What came of a job.

    Attributes:
        seconds: until all was there, and all ranks that were alive knew it.
        sampling: of all ranks together, into images that were kept, in seconds.
        lost: images made in vain.
        looking: of all ranks together, for looks and for leases that were not got, in seconds.
        operations: of all ranks on the folder.
    """

    job: Job
    seconds: float = 0.0
    sampling: float = 0.0
    lost: int = 0
    looking: float = 0.0
    operations: float = 0.0
    deaths: int = 0

    def images_per_second(self) -> float:
        return self.job.images / self.seconds

    def sampling_share(self) -> float:
        """Of the ranks' time; what lacks to 1 is idle, lost, or went into the file system."""
        return self.sampling / (self.job.ranks * self.seconds)

    def looking_share(self) -> float:
        return self.looking / (self.job.ranks * self.seconds)

    def operations_per_second(self) -> float:
        return self.operations / self.seconds


class Folder:
    """The shards as they are, whoever knows.

    Attributes:
        stored: images of each shard.
        missing, free: shards that are not whole, and those of them without a lease.
        owner: shard -> the rank that holds its lease; ``died``: when that rank died, if it did.
    """

    def __init__(self, job: Job):
        self.job = job
        self.count = -(-job.images // job.shard_size)
        self.stored = [0] * self.count
        self.missing, self.free = set(range(self.count)), set(range(self.count))
        self.owner: dict[int, int] = {}
        self.died: dict[int, float] = {}

    def size(self, shard: int) -> int:
        return min(self.job.shard_size, self.job.images - shard * self.job.shard_size)

    def names(self) -> int:
        return self.count - len(self.missing) + len(self.owner)

    def lease(self, shard: int, rank: int) -> None:
        self.free.discard(shard)
        self.died.pop(shard, None)
        self.owner[shard] = rank

    def release(self, shard: int) -> None:
        del self.owner[shard]
        if shard in self.missing:
            self.free.add(shard)

    def store(self, shard: int, images: int) -> None:
        self.stored[shard] = images
        if images == self.size(shard):
            self.missing.discard(shard)

    def near(self, shard: int, rank: int) -> bool:
        """Whether the owner of a lease is, or was, on the machine of ``rank``."""
        return self.owner[shard] // self.job.node == rank // self.job.node


@dataclass
class Work:
    """A shard in hand: since when, how many of its images were there, when it is stored."""

    shard: int
    began: float
    before: int = 0
    stores: float = 0.0


class Simulation:
    """One job; ``run`` gives its result."""

    def __init__(self, job: Job):
        self.job, self.folder, self.result = job, Folder(job), Result(job)
        self.random = random.Random(job.seed)
        self.now = self.server_free = 0.0
        self._events: list[tuple] = []  # moment, number, what, rank, the rank's life
        self._numbers = itertools.count()
        self._lives = [0] * job.ranks  # of the process that stands in for a dead one: a new number
        self._ended: set[int] = set()
        self._away: set[int] = set()  # dead, and not restarted yet
        self._works: list[list[Work]] = [[] for _ in range(job.ranks)]
        self._speeds = [
            job.image_seconds * max(0.1, self.random.gauss(1, job.spread)) for _ in range(job.ranks)
        ]

    def run(self) -> Result:
        job, result = self.job, self.result
        for rank in range(job.ranks):
            self._start(rank, 0.0)
            self._plan_death(rank)
        for moment, rank in job.kills:
            self._at(moment, self._die, rank)
        while self.folder.missing or len(self._ended) + len(self._away) < job.ranks:
            self.now, _, what, rank, life = heapq.heappop(self._events)
            if callable(what):
                what(rank)
            elif life == self._lives[rank]:
                self._away.discard(rank)
                self._step(what, rank)
        result.seconds = self.now
        result.operations += 2 * result.sampling / BEAT  # a write and a flush of every lease
        return result

    def _at(self, moment: float, what, rank: int) -> None:
        event = (moment, next(self._numbers), what, rank, self._lives[rank])
        heapq.heappush(self._events, event)

    def _start(self, rank: int, after: float) -> None:
        way = ways.by_names if self.job.names else ways.by_opening
        self._at(self.now + after, way(self, rank), rank)

    def _step(self, way: Iterator[float], rank: int) -> None:
        try:
            self._at(self.now + next(way), way, rank)
        except StopIteration:
            self._ended.add(rank)

    # ---- what takes time ----

    def operate(self, count: float) -> float:
        """Seconds of so many operations one after the other, on the server of all."""
        storage = self.job.storage
        self.result.operations += count
        self.server_free = max(self.now, self.server_free) + count / storage.capacity
        return max(self.server_free - self.now, count * storage.latency)

    def search(self, count: float) -> float:
        """The same, for a look or for leases that are not got."""
        seconds = self.operate(count)
        self.result.looking += seconds
        return seconds

    def listing(self) -> float:
        """Operations of a listing."""
        return 1 + self.folder.names() / self.job.storage.names

    def work(self, rank: int, shard: int) -> Generator[float, None, None]:
        """Lease a shard that is free and sample it; it is stored while the rank goes on."""
        folder, works = self.folder, self._works[rank]
        folder.lease(shard, rank)
        work = Work(shard, self.now)
        works.append(work)
        yield self.operate(LEASING)
        if shard not in folder.missing:
            works.remove(work)
            folder.release(shard)
            return
        work.began, work.before = self.now, self._whole_batches(folder.stored[shard])
        yield self._left(work) * self._speeds[rank]
        yield max([self.now, *(other.stores for other in works)]) - self.now  # the one before
        written = folder.size(shard) * self.job.image_bytes / self.job.storage.bandwidth
        work.stores = self.now + self.operate(STORING - LEASING) + written
        life = self._lives[rank]

        def finish(rank: int) -> None:
            if life == self._lives[rank]:
                works.remove(work)
                self.result.sampling += self._left(work) * self._speeds[rank]
                folder.store(shard, folder.size(shard))
                folder.release(shard)

        self._at(work.stores, finish, rank)

    def writing(self, rank: int) -> float:
        """Seconds until all is stored that the rank has sampled."""
        return max([0.0, *(work.stores - self.now for work in self._works[rank])]) + 1e-6

    def _left(self, work: Work) -> int:
        return self.folder.size(work.shard) - work.before

    def _whole_batches(self, images: int) -> int:
        return images // self.job.batch_size * self.job.batch_size

    # ---- deaths ----

    def _plan_death(self, rank: int) -> None:
        if self.job.failures_per_day:
            after = self.random.expovariate(self.job.failures_per_day / DAY)
            self._at(self.now + after, self._die, rank)

    def _die(self, rank: int) -> None:
        """End a rank in the middle of what it does, and have a process stand in for it."""
        if rank in self._ended:
            return
        self.result.deaths += 1
        self._plan_death(rank)
        for work in self._works[rank]:
            self._drop(rank, work, STORE_SECONDS)
            self.folder.died[work.shard] = self.now
        self._renew(rank)
        for other in range(self.job.ranks) if self.job.together else ():
            if other != rank and other not in self._ended:
                for work in self._works[other]:
                    self._drop(other, work, None)
                    self.folder.release(work.shard)
                self._renew(other)

    def _renew(self, rank: int) -> None:
        self._works[rank] = []
        self._lives[rank] += 1
        self._away.add(rank)
        self._start(rank, self.job.restart)

    def _drop(self, rank: int, work: Work, stored_every: float | None) -> None:
        """Of a shard in hand, keep what is stored every so often; all if the rank was asked to end.

        A batch in hand is not counted, neither as kept nor as lost.
        """
        seconds, left = self.now - work.began + 1e-9, self._left(work)
        made = min(left, int(seconds / self._speeds[rank]))
        if made < left:
            made = self._whole_batches(made)
        kept = made
        if stored_every is not None:
            stored = seconds // stored_every * stored_every
            kept = self._whole_batches(min(made, int(stored / self._speeds[rank])))
        if kept:
            self.folder.store(work.shard, work.before + kept)
        self.result.lost += made - kept
        self.result.sampling += kept * self._speeds[rank]


def simulate(job: Job) -> Result:
    """The result of a job."""
    return Simulation(job).run()
