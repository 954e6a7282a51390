"""The way of one rank through the missing shards, as generators of the seconds that pass."""

from collections.abc import Generator

from stitch.runs import missing

BEAT, STALE = 5.0, 60.0  # seconds, as in stitch.runs.leases
OPENED = 3  # operations to read a small file: open, read, close


def by_names(simulation, rank: int) -> Generator[float, None, None]:
    """As ``stitch.runs.fill`` does it, by ``missing.Search``."""
    folder, job = simulation.folder, simulation.job
    watched: dict[int, tuple[float, float]] = {}  # lease -> last look, seconds unchanged
    yield simulation.search(simulation.listing())
    count = len(folder.missing)
    first, end = (k * count // job.ranks for k in (rank, rank + 1))
    # Shards are not listed if all are missing: there may be many, for many ranks.
    own = range(first, end) if count == folder.count else sorted(folder.missing)[first:end]
    candidates = [shard for shard in own if shard in folder.owner]
    candidates += [shard for shard in own if shard in folder.free]
    alone, outdated, waiting_since = True, False, None
    leased = set(candidates) & folder.owner.keys()  # by the last look, of those that are missing
    if not candidates:
        candidates, leased = _others(simulation), folder.missing & folder.owner.keys()
    free = bool(candidates)  # whether there were such by the last look
    while True:
        while candidates:
            shard = candidates.pop(0)
            taken = shard not in leased and shard not in folder.owner
            if shard in leased:
                yield simulation.search(1 + OPENED)
                taken = _is_given_up(simulation, rank, shard, watched)
            elif not taken:
                yield simulation.search(1)
                if alone:
                    alone, outdated, candidates = False, True, []
            if taken and shard in folder.missing:
                outdated, waiting_since = True, None
                yield from simulation.work(rank, shard)
        yield simulation.writing(rank)
        if not outdated:
            if not folder.missing:
                return
            waiting_since = simulation.now if waiting_since is None else waiting_since
            yield _pause(simulation, len(leased), simulation.now - waiting_since)
            if not free and not (yield from _may_go_on(simulation, rank, leased, watched)):
                continue
        yield simulation.search(simulation.listing())
        leased, outdated = folder.missing & folder.owner.keys(), False
        candidates = [shard for shard in own if shard in folder.free] if alone else []
        candidates = candidates or _others(simulation)
        free = bool(candidates)


def _others(simulation) -> list[int]:
    free = simulation.folder.free
    return simulation.random.sample(sorted(free), min(missing._TRIES, len(free)))


def _may_go_on(simulation, rank: int, leased: set[int], watched: dict):
    """As ``missing.Search.may_go_on``."""
    shard = simulation.random.choice(sorted(_suspects(simulation, watched, leased)))
    yield simulation.search(OPENED)
    return _is_given_up(simulation, rank, shard, watched)


def _pause(simulation, leased: int, waited: float) -> float:
    """As ``missing.Search.pause``."""
    ranks = max(simulation.job.ranks, leased)
    enough, most = (max(missing.POLL_SECONDS, ranks / looks) for looks in missing.POLLS_PER_SECOND)
    return min(enough, max(most, missing.LATE * waited)) * simulation.random.uniform(0.5, 1.5)


def _suspects(simulation, watched: dict, leased: set[int]) -> set[int]:
    """As ``leases.Leases.suspects``: one seen unchanged for longest, one unseen for longest."""
    seen = {shard: watched[shard] for shard in watched.keys() & leased}
    unseen = simulation.random.choice(list(leased - seen.keys() or leased))
    if len(seen) == len(leased):
        unseen = min(seen, key=lambda shard: seen[shard][0])
    return {unseen, max(seen, key=lambda shard: seen[shard][1], default=unseen)}


def _is_given_up(simulation, rank: int, shard: int, watched: dict) -> bool:
    """As ``leases.Leases.remove_abandoned``, of a lease that the last look showed."""
    folder, now = simulation.folder, simulation.now
    if shard not in folder.owner:
        return True
    died, near = folder.died.get(shard), folder.near(shard, rank)
    last, unchanged = watched.get(shard, (now, 0.0))
    same = not near and (now - last < BEAT if died is None else died < last)
    watched[shard] = now, unchanged + min(now - last, 3 * BEAT) if same else 0.0
    if died is None or (not near and watched[shard][1] < STALE):
        return False
    folder.release(shard)
    return True


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
