"""The way of one rank through the missing shards, as generators of the seconds that pass."""

import heapq
import math
from collections.abc import Generator

from stitch.runs import missing

BEAT, STALE = 5.0, 60.0  # seconds, as in stitch.runs.leases
OPENED = 3  # operations to read a small file: open, read, close


def by_names(simulation, rank: int) -> Generator[float, None, None]:
    """As ``stitch.runs.fill`` and ``missing.Search`` do it."""
    folder, job = simulation.folder, simulation.job
    watched: dict[int, tuple[float, float]] = {}  # lease -> last look, seconds unchanged

    def look():
        """What is free, and what leased; to be called when the listing has arrived."""
        return set(folder.free), folder.missing & folder.owner.keys()

    def choose(free: set[int], leased: set[int]) -> list[int]:
        if not free:
            return _suspects(simulation, watched, leased)
        first = [] if disturbed else [shard for shard in own if shard in free]
        others = sorted(free.difference(first))
        picked = simulation.random.sample(others, min(missing._TRIES, len(others)))
        return first + picked

    yield simulation.search(simulation.listing())
    free, leased = look()
    shards = sorted(free | leased)
    first, end = (k * len(shards) // job.ranks for k in (rank, rank + 1))
    own, disturbed = shards[first:end], False
    candidates = [shard for shard in own if shard in leased] + choose(free, leased)
    looked, waiting_since = True, None
    while True:
        while candidates:
            shard = candidates.pop(0)
            if shard not in leased and shard not in folder.owner:
                free.discard(shard)
                looked, waiting_since = False, None
                yield from simulation.work(rank, shard)
                continue
            yield simulation.search(1 + OPENED)
            if shard not in leased and not disturbed:
                disturbed = True
                candidates = choose(free - {shard}, leased) if free - {shard} else []
            elif _is_abandoned(simulation, rank, shard, watched):
                looked, waiting_since = False, None
                yield from simulation.work(rank, shard)
        yield simulation.writing(rank)
        if looked:
            if not free and not leased:
                return
            waiting_since = simulation.now if waiting_since is None else waiting_since
            yield _pause(simulation, len(leased), simulation.now - waiting_since)
        yield simulation.search(simulation.listing())
        free, leased = look()
        candidates, looked = choose(free, leased), True


def _pause(simulation, leased: int, waited: float) -> float:
    """As ``missing.Search.pause``."""
    ranks = max(simulation.job.ranks, leased)
    enough, most = (max(missing.POLL_SECONDS, ranks / looks) for looks in missing.LOOKS_PER_SECOND)
    return min(enough, max(most, missing.LATE * waited)) * simulation.random.uniform(0.5, 1.5)


def _suspects(simulation, watched: dict, leased: set[int]) -> list[int]:
    """As ``leases.Leases.suspects``."""

    def order(shard: int) -> tuple[float, float]:
        last, unchanged = watched.get(shard, (-math.inf, 0.0))
        return -unchanged, last

    shuffled = simulation.random.sample(sorted(leased), len(leased))
    return heapq.nsmallest(missing._WATCHED, shuffled, key=order)


def _is_abandoned(simulation, rank: int, shard: int, watched: dict) -> bool:
    """As ``leases.Leases._abandoned``, of a lease that the last look showed."""
    folder, now = simulation.folder, simulation.now
    if shard not in folder.owner:
        return shard in folder.missing  # given back since
    died, near = folder.died.get(shard), folder.near(shard, rank)
    last, unchanged = watched.get(shard, (now, 0.0))
    same = not near and (now - last < BEAT if died is None else died < last)
    watched[shard] = now, unchanged + min(now - last, 3 * BEAT) if same else 0.0
    return died is not None and (near or watched[shard][1] >= STALE)


def by_opening(simulation, rank: int) -> Generator[float, None, None]:
    """As it was before: every look opens every missing shard, every wait is half a second."""
    folder, job = simulation.folder, simulation.job
    first = rank * folder.count // job.ranks
    order = [*range(first, folder.count), *range(first)]
    known = set(folder.missing)
    dead_since: dict[int, float] = {}

    def opening() -> float:
        return len(known) + (OPENED - 1) * len(known - folder.missing)

    def can_be_taken(shard: int) -> bool:
        if shard not in folder.owner:
            return True
        died = folder.died.get(shard)
        if died is None or folder.near(shard, rank):
            return died is not None
        since = max(died, dead_since.setdefault(shard, simulation.now))
        return simulation.now - since >= STALE

    while True:
        yield simulation.search(opening())
        known &= folder.missing
        tried = 0
        for shard in order:
            if shard in known:
                tried += 1
                if can_be_taken(shard):
                    # To find what a killed process left of a shard, the folder was listed.
                    yield from simulation.work(rank, shard)
                    yield simulation.search((1 + OPENED) * (tried - 1) + simulation.listing())
                    break
        else:
            yield simulation.search((1 + OPENED) * tried) + simulation.writing(rank)
            yield simulation.search(opening())
            known &= folder.missing
            if not known:
                yield simulation.search(folder.count)  # is there a lease left on any shard?
                return
            yield missing.POLL_SECONDS
