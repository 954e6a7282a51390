"""Our evaluation against published values: ``python -m scripts.evaluate selftest``."""

import logging
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from eval.evaluator import Evaluator
from eval.features import find_weights
from eval.images import open_images
from models.errors import InputError
from models.weights import CheckpointError
from models.zoo import ROOT
from stitch.runs import devices
from stitch.runs.records import ResultStore

log = logging.getLogger("selftest")


def selftest(config: DictConfig) -> None:
    """Measure published sample batches and print ours beside theirs.

    Ends the process with exit code 1 if a value is off by more than its limit.

    Raises:
        InputError: if the weights, the reference or all batches are missing, saying what to
            download from where to where.
    """
    evaluation = config.eval
    if "published" not in evaluation:
        evaluation = OmegaConf.load(ROOT / "configs" / "eval" / "imagenet.yaml")
    published = evaluation.published
    device = devices.start(config.device)
    missing = missing_files(evaluation)
    present = [batch for batch in published.batches if Path(batch.path).is_file()]
    if missing and (len(missing) > len(published.batches) - len(present) or not present):
        raise InputError(f"the selftest lacks files: {' | '.join(missing)}")
    for text in missing:
        log.info("skipped: %s", text)
    names = [name for name in evaluation.metrics if name in published.limits]
    evaluator = Evaluator(OmegaConf.merge(evaluation, {"metrics": names}), device)
    store = ResultStore(Path(config.runs) / "records")
    failed = 0
    log.info("%-40s %-10s %10s %10s %8s", "", "", "published", "ours", "limit")
    for batch in present:
        images = open_images(batch.path)
        ours = evaluator.record(images, images.count, store)["metrics"]
        for name, theirs in batch.expected.items():
            good = abs(ours[name] - theirs) <= published.limits[name]
            failed += not good
            row = (images.path.name, name, theirs, ours[name], published.limits[name])
            log.info("%-40s %-10s %10.4f %10.4f %8.3f %s", *row, "good" if good else "OFF")
    log.info("source: %s", published.source)
    if failed:
        raise SystemExit(1)


def missing_files(evaluation: DictConfig) -> list[str]:
    """What is not there, each with its URL and the path to put it at."""
    missing = []
    try:
        find_weights(evaluation.weights, evaluation.url)
    except CheckpointError as error:
        missing.append(str(error))
    wanted = {evaluation.reference: evaluation.published.reference_url}
    wanted |= {batch.path: batch.url for batch in evaluation.published.batches}
    missing += [
        f"download {url} and put it at {path}"
        for path, url in wanted.items()
        if not Path(path).is_file()
    ]
    return missing
