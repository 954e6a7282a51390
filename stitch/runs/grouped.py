"""Sample runs together whose trajectories begin alike.

The unit of work is a shard of indices: all runs of a group make it, one after the other, and share
the beginnings of its trajectories. Every run stores its shards as if it were alone.
"""

import logging
from collections.abc import Callable, Iterable, Iterator

from tqdm import tqdm

from models.errors import is_mistake
from stitch.prefix import SharedPrefix
from stitch.runs import distributed, interrupt
from stitch.runs.fill import Batch, fill, verify
from stitch.runs.generate import batches, sample_lacking, timing_facts
from stitch.runs.missing import Missing
from stitch.runs.run import Run
from stitch.runs.warmup import prepare

log = logging.getLogger("together")


def groups(runs: Iterable[Run]) -> list[list[Run]]:
    """Runs that differ in their allocations only, each group in the order that shares most.

    A run with a cache is alone: behind a beginning that another run made, its cache would lack what
    it keeps of the steps there.
    """
    found: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        found.setdefault((run.prefix_key, run.id if run.cache else ""), []).append(run)
    return [sorted(group, key=lambda run: run.allocation.steps) for group in found.values()]


def sample_together(group: list[Run]) -> tuple[dict[str, str], dict[str, int]]:
    """Sample what is missing of a group's runs, by all ranks.

    A run that fails is left where it is; the others go on.

    Args:
        group: runs as ``groups`` gives them; every rank calls with the same.

    Returns:
        Id of a run -> what went wrong; and the network evaluations ``made`` and ``saved``.

    Raises:
        SystemExit: when interrupted by a signal, after the batch in hand.
    """
    failures: dict[str, str] = {}
    counts = {"made": 0, "saved": 0}
    for run in group:
        attempt(failures, run, verify, run.samples, run.num_images)
    failures = _of_all(failures)  # no rank waits for one that failed, none begins before the others
    going = [run for run in group if run.id not in failures]
    with interrupt.interruptible() as interrupted:
        if len(going) > 1:
            counts = _share(going, failures, interrupted)
        for run in going:
            # Alone, or what another process took and did not finish.
            if not interrupted() and run.id not in failures:
                attempt(failures, run, sample_lacking, run)
    everywhere = distributed.from_all(counts)
    return _of_all(failures), {key: sum(rank[key] for rank in everywhere) for key in counts}


def _of_all(failures: dict[str, str]) -> dict[str, str]:
    """The failures of all ranks, on all ranks."""
    merged = {}
    for found in distributed.from_all(failures):
        merged |= found
    return merged


class Sharing:
    """Makes the batches of runs that take turns at a shard, the beginnings in common once.

    Args:
        runs: a group, in its order; one alone shares nothing.

    Attributes:
        made, saved: network evaluations for all images, if there is more than one run.
    """

    def __init__(self, runs: list[Run]):
        self.made = self.saved = 0
        self._alone = len(runs) == 1
        self._prefixes: dict[int, SharedPrefix] = {}  # of a shard's batches, by their first index

    def begin(self) -> None:
        """Another shard is next."""
        self._prefixes = {}

    def batches(self, run: Run, indices: range) -> Iterator[Batch]:
        """See ``stitch.runs.generate.batches``."""
        if self._alone:
            yield from batches(run, indices)
            return
        before: dict[int, tuple[int, int]] = {}  # counts when a batch was begun

        def prefix_of(batch: range) -> list[SharedPrefix]:
            prefix = self._prefixes.setdefault(batch.start, SharedPrefix())
            before[batch.start] = prefix.evaluated, prefix.saved
            return [prefix]

        for batch, *made in batches(run, indices, prefix_of):
            prefix, (evaluated, saved) = self._prefixes[batch.start], before[batch.start]
            self.made += (prefix.evaluated - evaluated) * len(batch)
            self.saved += (prefix.saved - saved) * len(batch)
            yield batch, *made

    def counts(self) -> dict[str, int]:
        return {"made": self.made, "saved": self.saved}


def _share(
    going: list[Run], failures: dict[str, str], interrupted: Callable[[], bool]
) -> dict[str, int]:
    """Make shard after shard, each for all runs; those that another process makes are left out."""
    sharing = Sharing(going)
    first, *_ = going
    wanted = {run: set(run.samples.lacking(run.num_images)) for run in going}
    shards = sorted(set().union(*wanted.values()))
    rank, ranks = distributed.rank(), distributed.world_size()
    start, end = (k * len(shards) // ranks for k in (rank, rank + 1))
    own = set(shards[start:end])
    left: set[int] | None = None  # what others have not taken, if that is known
    for run in going:
        attempt(failures, run, prepare, run)
    images = sum(
        len(first.samples.indices(s, first.num_images)) for w in wanted.values() for s in w
    )
    with tqdm(
        desc=f"{len(going)} runs",
        total=images // distributed.world_size(),
        unit="img",
        smoothing=0,
        leave=None,
        disable=not distributed.is_main(),
    ) as bar:
        for shard in [*shards[start:], *shards[:start]]:
            if shard not in own:
                left = _left(going, failures) if left is None else left
                if shard not in left:
                    continue
                left = None  # outdated when this one is made
            sharing.begin()
            for run in going:
                if interrupted():
                    return sharing.counts()
                if shard not in wanted[run] or run.id in failures:
                    continue
                # Stored with the shard's time: it is not what the run takes by itself.
                facts = {**timing_facts(first), "nfe_saved": 0}

                def generate(indices: range, run=run, facts=facts):
                    before = sharing.saved
                    for batch, *made in sharing.batches(run, indices):
                        facts["nfe_saved"] = sharing.saved - before
                        bar.update(len(batch))
                        yield batch, *made

                there = attempt(
                    failures, run, fill, run.samples, run.num_images, generate, run.batch_size,
                    facts=facts, only=shard,
                )  # fmt: skip
                if there is False:
                    break  # another process is at this shard and shares it by itself
    return sharing.counts()


def _left(going: list[Run], failures: dict[str, str]) -> set[int]:
    """Shards that some run lacks and nobody is at, by a look at the names in the runs' folders."""
    missing = [Missing(run.samples, run.num_images) for run in going if run.id not in failures]
    lacking = set().union(*(one.shards for one in missing))
    return lacking.difference(*(one.seen.leased for one in missing))


def attempt(failures: dict[str, str], run: Run, function, *arguments, **options):
    """What ``function`` returns, True for None or 0; or None, with the failure noted."""
    try:
        result = function(*arguments, **options)
    except Exception as error:
        if not is_mistake(error):
            log.exception("%s failed", run.allocation)
        failures[run.id] = f"{type(error).__name__}: {error}"
        return None
    return result is not False
