"""What leases, listings and shards cost on the disk of this machine, in seconds."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from stitch.runs import listing
from stitch.runs.leases import Leases
from stitch.runs.shards import ShardFolder
from tests.measure.scale.processes import RUN

REPETITIONS = 50


def median(task: Callable[[int], object], repetitions: int = REPETITIONS) -> float:
    """Seconds of ``task(k)``, the median over k."""
    seconds = []
    for k in range(repetitions):
        began = time.perf_counter()
        task(k)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def costs() -> dict[str, float]:
    """Medians by name."""
    found = {}
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        folder = ShardFolder(path / "samples", RUN, 50)
        folder.mark(1)
        with Leases(folder.path) as leases:
            found["take a free shard"] = median(leases.take)
            found["try for a leased shard"] = median(Leases(folder.path).take)
            found["give it back"] = median(leases.release)
        for count in (100, 1000, 10000):
            many = path / str(count)
            many.mkdir()
            for shard in range(count):
                listing.named(many, shard, listing.SHARD).touch()
            found[f"list {count} shards"] = median(lambda _, many=many: listing.look(many))
        for size in (28, 256):
            images = np.zeros((50, size, size, 1 if size == 28 else 3), np.uint8)
            labels = np.zeros(50, np.int64)
            text = f"shard of 50 images of {size}x{size}"
            found[f"store a {text}"] = median(
                lambda k, images=images, labels=labels: folder.write(k, images, labels)
            )
            found[f"read and verify a {text}"] = median(folder.read)
        found["open a shard to see its length"] = median(folder.length)
        found["open a shard that is not there"] = median(lambda k: folder.length(10**5 + k))
    return found
