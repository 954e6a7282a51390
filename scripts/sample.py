"""Sample images of one run: ``python -m scripts.sample allocation.small=0.4 num_images=5000``.

Alone or under ``torchrun --nproc-per-node=N -m scripts.sample``, on one machine or many (see
docs/distributed.md). Interrupt it at any time: the same command makes what is missing, and the
images are the same.
"""

if not __package__:
    import as_module  # noqa: F401  says how to start it, and exits

import functools
import logging

import numpy as np
import torch
from omegaconf import DictConfig

from eval.results import content_hash
from eval.shards import folder_digest
from models.errors import InputError
from scripts import job as jobs
from scripts import launch, memory
from scripts.cli import command
from scripts.compilation import compile_networks
from scripts.fill import begin, fill
from scripts.provenance import refuse_unclean
from stitch import SharedPrefix, sample

log = logging.getLogger("sample")


@command("sample")
def main(config: DictConfig) -> None:
    device = launch.start()
    job = jobs.create(config, jobs.load_zoo(config, device))
    refuse_unclean("samples", job.samples.path)
    made = sample_missing(job)
    if launch.is_main():
        done = "" if made else " (all were there already)"
        log.info("run %s: %s", content_hash(job.run), job.allocation)
        log.info("%d images in %s%s", job.num_images, job.samples.path, done)
        log.info("sha256 of the images: %s", folder_digest(job.samples, job.num_images))


def sample_missing(job: jobs.Job) -> int:
    """Sample what is missing of a run, by all ranks; return how many images that was.

    Args:
        job: the run; every rank calls with the same.

    Raises:
        ShardError: if the folder cannot be written to.
        SystemExit: when interrupted by a signal, after the batch in hand.
    """
    if not job.samples.whole(job.num_images):
        load(job)  # before the folder is made: weights may turn out to be wrong
    missing = begin(job.samples, job.num_images)
    if missing:
        prepare(job)
        fill(
            job.samples,
            job.num_images,
            job.batch_size,
            functools.partial(sample_batch, job),
            str(job.allocation),
            timing_facts(job),
        )
    return missing


def load(job: jobs.Job) -> None:
    """Load the run's networks, unless they are."""
    for name in dict.fromkeys(job.networks):
        job.zoo.denoisers[name]


def prepare(job: jobs.Job) -> None:
    """Load the run's networks, and compile them if it says so, so that neither is timed."""
    load(job)
    if job.compile:
        compile_networks(job)


def timing_facts(job: jobs.Job) -> dict:
    """What the time of a shard depends on, beside the run."""
    return {
        "batch_size": job.batch_size,
        "device": launch.device_name(job.zoo.device) + (", compiled" if job.compile else ""),
        "torch": torch.__version__,
    }


def sample_batch(
    job: jobs.Job, indices: range, prefix: SharedPrefix | None = None
) -> tuple[np.ndarray, list[int]]:
    """(B, H, W, C) uint8 images and B labels of global sample indices."""
    # Compiled networks take full batches: what the last one lacks is computed and left out.
    computed = range(indices.start, indices.start + job.batch_size) if job.compile else indices
    try:
        images = sample(
            job.zoo,
            job.sampler,
            job.allocation,
            job.labels(computed),
            seed=job.run["seed"],
            indices=computed,
            guidance=job.guidance,
            alignment=job.alignment,
            prefix=prefix,
        )
    except torch.OutOfMemoryError as error:
        raise InputError(too_large(job)) from error
    return images[: len(indices)], job.labels(indices)


def too_large(job: jobs.Job) -> str:
    """What to do about a batch that did not fit."""
    torch.cuda.empty_cache()
    rows = min(memory.fitting(job.zoo, name, job.zoo.dtype) for name in dict.fromkeys(job.networks))
    largest = rows if job.guidance.scale == 1 else rows // 2
    return (
        f"batch_size={job.batch_size} does not fit {launch.device_name(job.zoo.device)}; "
        f"{largest} does. Finished shards are kept"
    )


if __name__ == "__main__":
    main()
