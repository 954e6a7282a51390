"""Real ranks, as many processes as wanted, that share a folder and sleep instead of sampling."""

import logging
import multiprocessing
import os
import resource
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stitch.runs import distributed, leases
from stitch.runs.fill import begin, fill
from stitch.runs.shards import ShardFolder
from tests.measure.scale.simulation import Job

RUN = {"zoo": "none", "what": "images of nothing, to measure leases and shards"}
START = 4.0  # seconds for all processes to be there
fork = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Measured:
    """What came of a job of real processes; see ``simulation.Result``.

    Attributes:
        overslept: share of the ranks' time in sleeps beyond their end.
        cores: processor cores that they kept busy, on average.
    """

    seconds: float
    sampling_share: float
    lost: int
    overslept: float
    cores: float


class Ranks:
    """The processes of a job, and what they tell, even if they are killed: images and times."""

    def __init__(self, job: Job, path: Path):
        self.job, self.folder = job, ShardFolder(path, RUN, job.shard_size)
        self.made = fork.RawArray("q", job.ranks)
        self.ended = fork.RawArray("d", job.ranks)
        self.overslept = fork.RawArray("d", job.ranks)
        self.begins = time.monotonic() + START
        begin(self.folder, job.images)

    def start(self, rank: int):
        process = fork.Process(target=self._fill, args=(rank,))
        process.start()
        return process

    def _fill(self, rank: int) -> None:
        job = self.job
        distributed.rank, distributed.world_size = lambda: rank, lambda: job.ranks
        distributed.is_main = lambda: False
        leases._machine = lambda: f"machine {rank // job.node}"
        logging.disable(logging.WARNING)  # of ranks without a shard
        time.sleep(max(0.0, self.begins - time.monotonic()))
        fill(self.folder, job.images, lambda indices: self._sleep(rank, indices), job.batch_size)
        self.ended[rank] = time.monotonic()

    def _sleep(self, rank: int, indices: range):
        size = self.job.batch_size
        for start in range(indices.start, indices.stop, size):
            batch = range(start, min(start + size, indices.stop))
            ends = time.monotonic() + len(batch) * self.job.image_seconds
            time.sleep(len(batch) * self.job.image_seconds)
            self.overslept[rank] += time.monotonic() - ends
            self.made[rank] += len(batch)
            yield batch, np.zeros((len(batch), 4, 4, 1), np.uint8), [0] * len(batch)


def measure(job: Job) -> Measured:
    """Have ``job.ranks`` processes do the job in a temporary folder, and kill some of them.

    Of the job, ``storage``, ``spread``, ``failures_per_day``, ``together`` and ``names`` have no
    meaning here. A killed process is restarted ``job.restart`` seconds later.
    """
    with tempfile.TemporaryDirectory() as folder:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        ranks = Ranks(job, Path(folder) / "samples")
        processes = [ranks.start(rank) for rank in range(job.ranks)]
        due = [(moment, "kill", rank) for moment, rank in job.kills]
        due += [(moment + job.restart, "start", rank) for moment, rank in job.kills]
        for moment, what, rank in sorted(due):
            time.sleep(max(0.0, ranks.begins + moment - time.monotonic()))
            if what == "start":
                processes[rank].join()
                processes[rank] = ranks.start(rank)
            elif ranks.ended[rank]:
                raise RuntimeError(f"rank {rank} had ended before {moment} s: kill it earlier")
            else:
                os.kill(processes[rank].pid, signal.SIGKILL)
        for process in processes:
            process.join()
            if process.exitcode:
                raise RuntimeError(f"a rank ended with {process.exitcode}")
        ranks.folder.require(job.images)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = max(ranks.ended) - ranks.begins
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Measured(
        seconds,
        job.images * job.image_seconds / (job.ranks * seconds),
        sum(ranks.made) - job.images,
        sum(ranks.overslept) / (job.ranks * seconds),
        used / seconds,
    )
