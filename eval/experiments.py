"""What a list of runs has and lacks in records, and making what it lacks."""

import logging
from collections.abc import Iterable
from pathlib import Path

from omegaconf import DictConfig
from tqdm import tqdm

from eval.estimate import Costs, PlanLine, cost, plan_text, setting_text
from eval.evaluator import Evaluator
from eval.extraction import hash_shared
from eval.images import ShardImages
from eval.unstored import make_unstored
from models.errors import is_mistake
from stitch.runs import distributed
from stitch.runs.grouped import groups, sample_together
from stitch.runs.records import ResultStore
from stitch.runs.run import Run
from stitch.runs.shards import ShardError, ShardFolder, folder_digest

log = logging.getLogger("sweep")


def record_store(config: DictConfig) -> ResultStore:
    """Where the records of a config's runs are."""
    return ResultStore(Path(config.runs) / "records")


def stored_record(run: Run, evaluator: Evaluator, store: ResultStore) -> dict | None:
    """The record of a run if it was made before."""
    return store.get(run.settings, evaluator.protocol(run.num_images))


def make_records(
    runs: Iterable[Run], evaluator: Evaluator, store: ResultStore, store_images: bool = True
) -> dict[Run, str]:
    """Sample and evaluate every run that has no record, by all ranks.

    Runs that differ in their allocations only are sampled together (see ``stitch.runs.grouped``). A
    run that fails is left out, the others are finished. One whose record is of other images, or
    lacks a metric, has failed.

    Args:
        store_images: whether the images are kept in the runs' folders; see ``eval.unstored``.

    Returns:
        Run, one of ``unique(runs)`` -> its allocation and what went wrong.
    """
    runs = unique(runs)
    failures, counts = {}, {"made": 0, "saved": 0}

    def recorded(run: Run) -> dict | None:
        # Looked up as late as possible: another sweep may have made it in the meantime.
        return distributed.from_main(lambda: stored_record(run, evaluator, store))

    together = groups(runs)
    # Over the bars of single groups, which leave no trace below another one.
    bar = tqdm(
        desc="records",
        total=len(runs),
        unit="run",
        disable=len(together) == 1 or not distributed.is_main(),
    )
    for group in together:
        missing = []
        for run in group:
            record = recorded(run)
            if record is None:
                missing.append(run)
            elif reason := evaluator.lacking(record, store) or changed(run, evaluator, store):
                failures[run] = f"{run.allocation}: {reason}"
            else:
                by = record.get("provenance", {}).get("commit", "unknown")
                log.info("%s is recorded already, by commit %s", run.allocation, by)
        bar.update(len(group) - len(missing))
        if not missing:
            continue
        make = _make_stored if store_images else make_unstored
        failed, made = make(missing, evaluator, store)
        counts = {key: counts[key] + made[key] for key in counts}
        failures |= {r: f"{r.allocation}: {failed[r.id]}" for r in missing if r.id in failed}
        bar.update(len(missing))
    bar.close()
    if counts["saved"]:
        whole = counts["made"] + counts["saved"]
        log.info(
            "shared beginnings saved %s of %s network evaluations (%.0f %%)",
            f"{counts['saved']:,}",
            f"{whole:,}",
            100 * counts["saved"] / whole,
        )
    return failures


def _make_stored(
    group: list[Run], evaluator: Evaluator, store: ResultStore
) -> tuple[dict[str, str], dict[str, int]]:
    """As ``make_unstored``, but for the images."""
    failed, counts = sample_together(group)
    for run in group:
        try:
            if run.id not in failed:
                evaluator.record(run.samples, run.num_images, store, run.cost())
        except Exception as error:
            if distributed.world_size() > 1:
                raise  # the other ranks wait for this one: torchrun ends them all
            if not is_mistake(error):
                log.exception("%s failed", run.allocation)
            failed[run.id] = f"{type(error).__name__}: {error}"
    return failed, counts


def make_images(runs: Iterable[Run]) -> dict[Run, str]:
    """Sample the images that runs lack, by all ranks: a record outlives the images it is of.

    Returns:
        As ``make_records``.
    """
    failures = {}
    for group in groups(unique(runs)):
        failed, _ = sample_together(group)
        failures |= {r: f"{r.allocation}: {failed[r.id]}" for r in group if r.id in failed}
    return failures


def unique(runs: Iterable[Run]) -> list[Run]:
    """The runs without those that are another one again."""
    return list({(run.id, run.num_images): run for run in runs}.values())


def changed(run: Run, evaluator: Evaluator, store: ResultStore) -> str | None:
    """What is wrong if a record was made of other images than those in the run's folder.

    To be called by all ranks; each reads a part of the folder. The first records have only
    ``images_sha256``, for which one rank reads all of it.
    """
    folder, count = run.samples, run.num_images

    def known() -> dict | None:
        there = folder.path.is_dir() and not folder.lacking(count)
        return stored_record(run, evaluator, store) if there else None

    record = distributed.from_main(known)
    if record is None:
        return None
    facts = record["provenance"]
    if "image_hashes_sha256" in facts:
        hashes = hash_shared(ShardImages(folder), count)
    else:
        hashes = distributed.from_main(lambda: _digest(folder, count))
    here = distributed.from_main(lambda: hashes or {})
    for name in here.keys() & facts.keys():
        if here[name] != facts[name]:
            path = store.path(run.settings, evaluator.protocol(count))
            return (
                f"{path} was made by commit {facts['commit']} of other images (sha256 "
                f"{facts[name][:16]}) than {folder.path} holds ({here[name][:16]}); move one of "
                "them away"
            )
    return None


def _digest(folder: ShardFolder, count: int) -> dict[str, str] | None:
    """``hash_shared`` by one process, of what the first records have; None for damaged images."""
    try:
        return {"images_sha256": folder_digest(folder, count)}
    except ShardError:
        return None


def once(runs: Iterable[Run]) -> list[Run]:
    """Each run with the most images that are asked of it: fewer are its first ones."""
    by_images = sorted(runs, key=lambda run: run.num_images)
    return list({run.id: run for run in by_images}.values())


def plan(
    runs: Iterable[Run], evaluator: Evaluator, store: ResultStore, config: DictConfig
) -> list[str]:
    """What a sweep has and lacks, and what the rest costs, as lines of text.

    Args:
        config: see ``eval.estimate.Costs``.
    """
    runs, tables, lines = unique(runs), Costs(config), []
    missing = [run for run in runs if stored_record(run, evaluator, store) is None]
    for group in groups(runs):
        lacking = [run for run in group if run in missing]
        spent = cost(lacking, tables)
        lines.append(PlanLine("", setting_text(group[0]), len(group), len(lacking), spent))
    lines.append(PlanLine("", "in all", len(runs), len(missing), cost(once(missing), tables)))
    return plan_text(lines, tables)
