"""Sample and evaluate a sweep: ``python -m scripts.sweep -m allocation.small=0,0.5,1``.

A point is one run with one record. Recorded points are skipped, half-sampled ones are finished.
"""

import logging
from pathlib import Path

from omegaconf import DictConfig

from eval.results import ResultStore, content_hash
from scripts import job as jobs
from scripts import launch
from scripts.cli import command
from scripts.evaluate import Evaluator
from scripts.sample import sample_missing

log = logging.getLogger("sweep")


@command("sweep")
def main(config: DictConfig) -> None:
    device = launch.start()
    evaluator = Evaluator(config.eval, device)
    store = record_store(config)
    job = jobs.create(config, jobs.load_zoo(config, device))
    record = stored_record(job, evaluator, store)
    if record is not None:
        log.info("%s is recorded already", job.allocation)
    else:
        record = make_record(job, evaluator, store)
    if launch.is_main():
        values = ", ".join(f"{name} {value:.4f}" for name, value in record["metrics"].items())
        log.info("%s (run %s): %s", job.allocation, content_hash(job.run), values)


def record_store(config: DictConfig) -> ResultStore:
    """Where the records of a config's runs are."""
    return ResultStore(Path(config.runs) / "records")


def stored_record(job: jobs.Job, evaluator: Evaluator, store: ResultStore) -> dict | None:
    """The record of a run if it was made before."""
    return store.get(job.run, evaluator.protocol(job.num_images))


def make_record(job: jobs.Job, evaluator: Evaluator, store: ResultStore) -> dict:
    """Sample what is missing and evaluate it, by all ranks."""
    sample_missing(job)
    launch.barrier()
    return evaluator.record(job.samples, job.num_images, store, job.cost())


if __name__ == "__main__":
    main()
