"""Sample runs together whose trajectories begin alike.

The unit of work is a shard of indices: all runs of a group make it, one after the other, and share
the beginnings of its trajectories. Every run stores its shards as if it were alone.
"""

import dataclasses
import logging
from collections.abc import Iterable

from tqdm import tqdm

from eval.results import content_hash
from scripts import job as jobs
from scripts import launch
from scripts.cli import is_mistake
from scripts.fill import begin, fill
from scripts.sample import prepare, sample_batch, sample_missing, timing_facts
from stitch import SharedPrefix

log = logging.getLogger("together")


def groups(points: Iterable[jobs.Job]) -> list[list[jobs.Job]]:
    """Runs that differ in their allocations only, each group in the order that shares most."""
    found: dict[tuple, list[jobs.Job]] = {}
    for job in points:
        found.setdefault(_common(job), []).append(job)
    return [sorted(group, key=lambda job: job.allocation.steps) for group in found.values()]


def _common(job: jobs.Job) -> tuple:
    """What two runs have in common if their trajectories begin alike."""
    own = ("allocation", "weights", "sampler", "alignment")
    run = {key: value for key, value in job.run.items() if key not in own}
    # The sampler as it is, because a run leaves unsaid what makes no difference to it alone.
    sampler = [
        (field.name, getattr(job.sampler, field.name))
        for field in dataclasses.fields(job.sampler)
        if field.name != "schedule"
    ]
    return (
        id(job.zoo),
        content_hash(run),
        f"{type(job.sampler).__name__} {job.sampler.schedule.name} {sampler}",
        job.alignment,
        job.num_images,
        job.batch_size,
        job.samples.shard_size,
    )


def sample_together(group: list[jobs.Job]) -> tuple[dict[str, str], dict[str, int]]:
    """Sample what is missing of a group's runs, by all ranks.

    A run that fails is left where it is; the others go on.

    Args:
        group: runs as ``groups`` gives them; every rank calls with the same.

    Returns:
        Hash of run -> what went wrong; and the network evaluations ``made`` and ``saved``.

    Raises:
        SystemExit: when interrupted by a signal, after the batch in hand.
    """
    failures: dict[str, str] = {}
    counts = {"made": 0, "saved": 0}
    going = [job for job in group if _try(failures, job, begin, job.samples, job.num_images)]
    with launch.interruptible() as interrupted:
        if len(going) > 1:
            counts = _share(going, failures, interrupted)
        for job in going:
            # Alone, or what another process took and did not finish.
            if not interrupted() and content_hash(job.run) not in failures:
                _try(failures, job, sample_missing, job)
    merged = {}
    for found in launch.from_all(failures):
        merged |= found
    everywhere = launch.from_all(counts)
    return merged, {key: sum(rank[key] for rank in everywhere) for key in counts}


def _share(going: list[jobs.Job], failures: dict[str, str], interrupted) -> dict[str, int]:
    """Make shard after shard, each for all runs; those that another process is at are left out."""
    counts = {"made": 0, "saved": 0}
    first, *_ = going
    wanted = {job: set(job.samples.missing(job.num_images)) for job in going}
    shards = sorted(set().union(*wanted.values()))
    start = launch.rank() * len(shards) // launch.world_size()
    facts = timing_facts(first)
    for job in going:
        prepare(job)
    images = sum(
        len(first.samples.indices(s, first.num_images)) for w in wanted.values() for s in w
    )
    with tqdm(
        desc=f"{len(going)} runs",
        total=images // launch.world_size(),
        unit="img",
        smoothing=0,
        disable=not launch.is_main(),
    ) as bar:
        for shard in [*shards[start:], *shards[:start]]:
            prefixes: dict[int, SharedPrefix] = {}  # of the shard's batches, by their first index
            for job in going:
                if interrupted():
                    return counts
                if shard not in wanted[job] or content_hash(job.run) in failures:
                    continue
                made = {**facts, "nfe_saved": 0}

                def make(indices: range, job=job, made=made, prefixes=prefixes):
                    prefix = prefixes.setdefault(indices.start, SharedPrefix())
                    evaluated, saved = prefix.evaluated, prefix.saved
                    result = sample_batch(job, indices, prefix)
                    counts["made"] += (prefix.evaluated - evaluated) * len(indices)
                    counts["saved"] += (prefix.saved - saved) * len(indices)
                    # Stored with the shard's time: it is not what the run takes by itself.
                    made["nfe_saved"] += (prefix.saved - saved) * len(indices)
                    bar.update(len(indices))
                    return result

                there = _try(
                    failures, job, fill, job.samples, job.num_images, job.batch_size, make,
                    facts=made, only=shard,
                )  # fmt: skip
                if there is False:
                    break  # another process is at this shard and shares it by itself
    return counts


def _try(failures: dict[str, str], job: jobs.Job, function, *arguments, **options):
    """What ``function`` returns, True for None or 0; or None, with the failure noted."""
    try:
        result = function(*arguments, **options)
    except Exception as error:
        if not is_mistake(error):
            log.exception("%s failed", job.allocation)
        failures[content_hash(job.run)] = f"{type(error).__name__}: {error}"
        return None
    return result is not False
