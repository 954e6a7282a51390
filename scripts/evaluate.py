"""Measure samples: ``python -m scripts.evaluate samples=PATH``, alone or by many processes."""

if not __package__:
    import as_module  # noqa: F401  says how to start it, and exits

import logging
import sys
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from eval.evaluator import Evaluator
from eval.images import open_images, warnings
from eval.published import selftest
from models.errors import InputError
from models.files import check_writable
from scripts.cli import command
from stitch.runs import devices, distributed
from stitch.runs.provenance import refuse_unclean
from stitch.runs.records import ResultStore
from stitch.runs.tracking import check_tracking, log_record

log = logging.getLogger("evaluate")


@command("evaluate")
def main(config: DictConfig) -> None:
    if config.selftest:
        return selftest(config)
    if config.samples is None:
        raise InputError("samples is not set; give the folder that scripts.sample made")
    check_tracking(config.wandb)
    refuse_unclean("runs", config.runs)
    device = devices.start(config.device)
    check_writable(config.runs, "runs")
    images = open_images(config.samples)
    count = distributed.from_main(lambda: images.count)
    num_images = count if config.num_images is None else config.num_images
    evaluator = Evaluator(OmegaConf.merge(config.eval, {"reference": config.reference}), device)
    evaluator.check(images, num_images)
    store = ResultStore(Path(config.runs) / "records")
    record = evaluator.record(images, num_images, store)
    log.info("record %s", store.path(record["run"], record["protocol"]))
    log.info("%d of the %d images of %s", num_images, count, images.path)
    for text in warnings(images, num_images, evaluator.chunk):
        log.warning("warning: %s", text)
    for name, value in record["metrics"].items():
        log.info("%-10s %.4f", name, value)
    if distributed.is_main() and config.wandb.mode != "disabled":
        log_record(record, config.wandb)


if __name__ == "__main__":
    sys.argv = ["selftest=true" if word == "selftest" else word for word in sys.argv]
    main()
