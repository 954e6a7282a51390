"""What is simulated and measured for docs/scale.md."""

import dataclasses
import random

from tests.measure.scale.processes import Measured, measure
from tests.measure.scale.simulation import Job, Result, Storage, simulate

RANKS = (8, 64, 256, 1024)
SIZES = (10, 25, 50, 100, 250, 500, 1000, 2500)
MOST_SHARDS = 25_000
# Assumed, not measured: a network file system as it answers from another machine, at rest and busy.
NEAR = Storage(latency=0.001, capacity=20_000)
FAR = Storage(latency=0.005, capacity=10_000)
GPU, CPU = 1 / 50, 1 / 9.1  # seconds per image: assumed; measured in docs/bench/scaling-fashion.md
BATCH = 50


def job(ranks: int, images: int, size: int, **changes) -> Job:
    """On GPUs and the nearer file system, in batches of 50 or of whole shards."""
    settings = {"image_seconds": GPU, "storage": NEAR, "spread": 0.03, **changes}
    return Job(ranks, images, size, batch_size=min(BATCH, size), **settings)


def sizes(images: int, image_seconds: float = GPU) -> list[Result]:
    """Of every number of ranks and size of shards, where shards are neither too many nor one."""
    return [
        simulate(job(ranks, images, size, image_seconds=image_seconds))
        for ranks in RANKS
        for size in SIZES
        if images / MOST_SHARDS <= size <= images / 2
    ]


def best(results: list[Result]) -> dict[int, Result]:
    """The fastest of each number of ranks."""
    found = {}
    for result in results:
        here = found.setdefault(result.job.ranks, result)
        if result.seconds < here.seconds:
            found[result.job.ranks] = result
    return found


def polling() -> list[Result]:
    """A million images in 4,000 shards, by ranks that look as they do and as they did."""
    return [
        simulate(job(ranks, 1_000_000, 250, storage=storage, names=names))
        for storage in (NEAR, FAR)
        for names in (False, True)
        for ranks in RANKS
    ]


def failures() -> list[Result]:
    """An hour of work while every rank dies once a day, and is restarted alone or with all."""
    hour, shard = int(3600 / GPU), int(120 / GPU)
    return [
        simulate(job(ranks, hour * ranks, shard, failures_per_day=1.0, together=together))
        for together in (False, True)
        for ranks in RANKS
    ]


def checks(local: Storage) -> list[tuple[Job, Measured, Result]]:
    """64 real processes against the model of them."""
    base = Job(64, 12_800, 10, 10, 0.1, local, image_bytes=24, restart=5.0)
    jobs = [dataclasses.replace(base, shard_size=size) for size in (10, 50, 100, 130, 400)]
    for size in (50, 100, 200):
        choice = random.Random(size)
        ranks = choice.sample(range(base.ranks), 12)
        kills = tuple(sorted((choice.uniform(1, 15), rank) for rank in ranks))
        jobs.append(dataclasses.replace(base, shard_size=size, kills=kills))
    return [(one, measure(one), simulate(one)) for one in jobs]
