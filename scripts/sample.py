"""Sample images of one run: ``python -m scripts.sample allocation.small=0.4 num_images=5000``.

Alone or under ``torchrun --nproc-per-node=N -m scripts.sample``. Interrupt it at any time: the same
command makes what is missing, and the images are the same.
"""

import logging
import time

import numpy as np
import torch
from omegaconf import DictConfig
from tqdm import tqdm

from eval.results import content_hash
from eval.shards import folder_digest
from scripts import job as jobs
from scripts import launch
from scripts.cli import command
from scripts.compilation import compile_networks
from stitch import sample

log = logging.getLogger("sample")


@command("sample")
def main(config: DictConfig) -> None:
    device = launch.start()
    job = jobs.create(config, jobs.load_zoo(config, device))
    made = sample_missing(job)
    launch.barrier()
    if launch.is_main():
        done = "" if made else " (all were there already)"
        log.info("run %s: %s", content_hash(job.run), job.allocation)
        log.info("%d images in %s%s", job.num_images, job.samples.path, done)
        log.info("sha256 of the images: %s", folder_digest(job.samples, job.num_images))


def sample_missing(job: jobs.Job) -> int:
    """Make this rank's part of the shards that are missing; return how many images that were.

    Args:
        job: the run; every rank calls with the same.
    """
    folder = job.samples
    if launch.is_main():
        folder.claim()
    launch.barrier()
    missing = folder.missing(job.num_images)
    # No rank may finish a shard before all have looked: they must divide the same list.
    launch.barrier()
    shards = missing[launch.rank() :: launch.world_size()]
    total = sum(len(folder.indices(shard, job.num_images)) for shard in shards)
    if not total:
        return 0
    for name in dict.fromkeys(job.networks):
        job.zoo.denoisers[name]  # loaded here so that it is not timed
    if job.compile:
        compile_networks(job)
    with tqdm(
        total=total,
        unit="img",
        desc=str(job.allocation),
        disable=not launch.is_main(),
        smoothing=0,
    ) as bar:
        for shard in shards:
            _sample_shard(job, shard, bar)
    return total


def _sample_shard(job: jobs.Job, shard: int, bar: tqdm) -> None:
    wanted = job.samples.indices(shard, job.num_images)
    images, labels = [], []
    started = time.perf_counter()
    for start in range(wanted.start, wanted.stop, job.batch_size):
        indices = range(start, min(start + job.batch_size, wanted.stop))
        # Compiled networks take full batches: what the last one lacks is computed and left out.
        computed = range(start, start + job.batch_size) if job.compile else indices
        made = sample(
            job.zoo,
            job.sampler,
            job.allocation,
            job.labels(computed),
            seed=job.run["seed"],
            indices=computed,
            guidance=job.guidance,
            alignment=job.alignment,
        )
        images.append(made[: len(indices)])
        labels += job.labels(indices)
        bar.update(len(indices))
    # The images are on the host, so the device has finished.
    seconds = time.perf_counter() - started
    job.samples.write(shard, np.concatenate(images), np.array(labels))
    job.samples.log_timing(
        shard=shard,
        images=len(labels),
        seconds=round(seconds, 4),
        batch_size=job.batch_size,
        device=launch.device_name(job.zoo.device),
        torch=torch.__version__,
    )


if __name__ == "__main__":
    main()
