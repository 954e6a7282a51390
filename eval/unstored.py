"""Sample and measure runs without storing their images: features are taken of them as they come."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator

import numpy as np
from tqdm import tqdm

from eval.evaluator import Evaluator
from eval.extraction import Pass
from stitch.runs import distributed
from stitch.runs.generate import timing_facts
from stitch.runs.grouped import Sharing, attempt
from stitch.runs.records import ResultStore
from stitch.runs.run import Run
from stitch.runs.shards import ShardError
from stitch.runs.warmup import prepare


class MadeImages:
    """The images of a run, made when they are read (see ``eval.images.RunImages``).

    Shards that are stored and whole are read instead.

    Args:
        source: the run.
        sharing: makes the batches.
        report: called with the number of images after each batch.

    Attributes:
        made: how they were made, as ``timings`` says it.
    """

    classes = None

    def __init__(self, source: Run, sharing: Sharing, report: Callable[[int], object]):
        self.source, self.sharing, self.report = source, sharing, report
        self.run, self.path, self.count = source.settings, source.samples.path, source.num_images
        self.unit = source.samples.shard_size
        self.made: list[dict] = []

    def require(self, count: int) -> None:
        """Nothing can be missing."""

    look = require

    def labelled(self, start: int, stop: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        folder = self.source.samples
        for shard in range(start // self.unit, -(-stop // self.unit)) if start < stop else ():
            whole = folder.indices(shard, self.count)
            wanted = range(max(start, whole.start), min(stop, whole.stop))
            stored = None
            with contextlib.suppress(ShardError):
                stored = folder.read_whole(shard, len(whole))
            if stored is None:
                yield from self._make(wanted)
                continue
            own = slice(wanted.start - whole.start, wanted.stop - whole.start)
            self.report(len(wanted))
            yield stored[0][own], stored[1][own]

    def _make(self, wanted: range) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Whole batches are made, even where ``wanted`` begins or ends within one."""
        size, saved, began = self.source.batch_size, self.sharing.saved, time.monotonic()
        timing = {"images": 0, "seconds": 0.0, **timing_facts(self.source)}
        indices = range(
            wanted.start // size * size, min(-(-wanted.stop // size) * size, self.count)
        )
        for batch, images, labels in self.sharing.batches(self.source, indices):
            timing["seconds"] += time.monotonic() - began
            timing["images"] += len(batch)
            own = slice(max(0, wanted.start - batch.start), wanted.stop - batch.start)
            self.report(len(labels[own]))
            yield images[own], np.array(labels[own])
            began = time.monotonic()
        self.made.append({**timing, "nfe_saved": self.sharing.saved - saved})

    def read(self, start: int, stop: int) -> Iterator[np.ndarray]:
        return (images for images, _ in self.labelled(start, stop))

    def prompts(self, count: int) -> None:
        """None: runs of prompts are always stored."""

    def timings(self) -> list[dict]:
        return [*self.source.samples.timings(), *self.made]


def make_unstored(
    group: list[Run], evaluator: Evaluator, store: ResultStore
) -> tuple[dict[str, str], dict[str, int]]:
    """Sample, measure and record the runs of a group, by all ranks; no image is written.

    Each rank has a part of the indices. The runs take turns at its shards and share the beginnings
    of trajectories, as ``stitch.runs.grouped`` does it. The features of all runs are in memory
    until the last shard is made.

    Args:
        group: runs as ``stitch.runs.grouped.groups`` gives them; every rank calls with the same.

    Returns:
        As ``stitch.runs.grouped.sample_together`` does.
    """
    failures: dict[str, str] = {}
    sharing = Sharing(group)
    evaluator.reference  # noqa: B018  extracted by all ranks, if it is, before one may fail
    with tqdm(
        desc=f"{len(group)} runs" if len(group) > 1 else str(group[0].allocation),
        unit="img",
        smoothing=0,
        leave=None,
        disable=not distributed.is_main(),
    ) as bar:
        images = {run: MadeImages(run, sharing, bar.update) for run in group}
        passes = _passes(images, evaluator, failures)
        if passes:
            first = next(iter(passes.values()))
            bar.reset((first.stop - first.start) * len(passes))
        for start, stop in first.parts() if passes else []:
            sharing.begin()
            for run, walked in passes.items():
                if run.id not in failures:
                    attempt(failures, run, walked.over, start, stop, bar=False)
    for found in distributed.from_all(dict(failures)):
        failures |= found
    for run, walked in passes.items():
        if run.id not in failures:
            attempt(failures, run, _record, run, images[run], walked, evaluator, store)
    counts = distributed.from_all(sharing.counts())
    return failures, {key: sum(rank[key] for rank in counts) for key in counts[0]}


def _passes(
    images: dict[Run, MadeImages], evaluator: Evaluator, failures: dict[str, str]
) -> dict[Run, Pass]:
    """The pass of every run that can be made and measured, its networks loaded."""
    passes = {}
    for run, source in images.items():
        fits = attempt(failures, run, evaluator.check, source, run.num_images)
        if fits and attempt(failures, run, prepare, run):
            passes[run] = evaluator.start(source, run.num_images)
    return passes


def _record(
    run: Run, images: MadeImages, walked: Pass, evaluator: Evaluator, store: ResultStore
) -> None:
    sampling = sum(timing["seconds"] for timing in images.made)
    images.made = [timing for made in distributed.from_all(images.made) for timing in made]
    seen = walked.finish()
    if seen is not None:
        seen = dataclasses.replace(seen, seconds=seen.seconds - sampling)
        facts = {"images_stored": False} if images.made else {}
        evaluator.add(images, run.num_images, seen, store, run.cost(), facts)
