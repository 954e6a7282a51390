"""Generate the images of a run: batch by batch, or all that its folder lacks."""

from collections.abc import Callable, Iterator, Sequence

import torch

from stitch.runs import devices, distributed
from stitch.runs.fill import Batch, begin, fill
from stitch.runs.provenance import commit
from stitch.runs.run import Run
from stitch.runs.shards import folder_digest
from stitch.runs.warmup import load, prepare
from stitch.trajectory import Wrapper
from stitch.transfer import ahead


def batches(
    run: Run, indices: range, wrappers: Callable[[range], Sequence[Wrapper]] = lambda _: ()
) -> Iterator[Batch]:
    """The batches of a range of global indices, one after the other.

    Batches begin at multiples of the batch size, whatever the range: what one of them rounds to
    depends on nothing else. A GPU is given the next one before one is waited for.

    Args:
        wrappers: indices of a batch -> the wrappers of its walk; see ``Run.walk``.
    """

    def launched() -> Iterator[tuple[range, Callable]]:
        start = indices.start
        while start < indices.stop:
            stop = min(indices.stop, (start // run.batch_size + 1) * run.batch_size)
            batch = range(start, stop)
            yield batch, run.launch(batch, wrappers(batch))
            start = stop

    for batch, wait in ahead(launched(), run.zoo.device):
        yield batch, *wait()


def sample_missing(run: Run) -> int:
    """Sample what is missing of a run, by all ranks; return how many images that was.

    Args:
        run: every rank calls with the same.

    Raises:
        ShardError: if the folder cannot be written to.
        SystemExit: when interrupted by a signal, after the batch in hand.
    """
    # One rank looks: it opens every shard.
    if distributed.from_main(lambda: bool(run.samples.lacking(run.num_images))):
        load(run)  # before the folder is made: weights may turn out to be wrong
    missing = begin(run.samples, run.num_images)
    if missing:
        _sample(run)
    return missing


def summary(run: Run, made: int) -> list[str]:
    """What a command says of a run that is whole, of which it has ``made`` so many images.

    Reads all images, so only one rank calls it.
    """
    done = "" if made else " (all already existed)"
    return [
        f"run {run.id}: {run.allocation}",
        f"{run.num_images} images in {run.samples.path}{done}",
        f"sha256 of the images: {folder_digest(run.samples, run.num_images)}",
    ]


def sample_lacking(run: Run) -> None:
    """Sample what is missing of a run whose folder all ranks have verified; none need wait."""
    if run.samples.lacking(run.num_images):
        _sample(run)


def _sample(run: Run) -> None:
    prepare(run)
    fill(
        run.samples,
        run.num_images,
        lambda indices: batches(run, indices),
        run.batch_size,
        str(run.allocation),
        timing_facts(run),
    )


def timing_facts(run: Run) -> dict:
    """What a shard was made by, on and in, beside the run: its time depends on it."""
    return {
        "commit": commit(),
        "batch_size": run.batch_size,
        "device": devices.name(run.zoo.device) + (", compiled" if run.compile else ""),
        "torch": torch.__version__,
    }
