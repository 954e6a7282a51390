"""Sample images of prompts in a pipeline of diffusers: ``python -m scripts.text2image shares=0.4``.

Alone or under ``torchrun --nproc-per-node=N -m scripts.text2image``. Interrupt it at any time: the
same command samples what is missing, and the images are the same. ``dry_run=true`` says what is to
be fetched and what it costs.
"""

if not __package__:
    import as_module  # noqa: F401  says how to start it, and exits

import logging

from omegaconf import DictConfig

from eval.estimate import Costs, plan_of
from eval.evaluator import Evaluator
from eval.experiments import record_store
from scripts.cli import command
from stitch.runs import devices, distributed
from stitch.runs.generate import sample_missing, summary
from stitch.runs.pipeline import load_pipeline
from stitch.runs.provenance import refuse_unclean
from stitch.runs.text2image import create, warn_of_long_prompts

log = logging.getLogger("text2image")


@command("text2image")
def main(config: DictConfig) -> None:
    device = devices.start(config.device)
    zoo = load_pipeline(config, device)
    if config.dry_run:
        run = create(config, zoo, planning=True)
        for line in plan_of(run, Costs(config)):
            log.info("%s", line)
        return
    run = create(config, zoo)
    refuse_unclean("samples", run.samples.path)
    evaluator = Evaluator(config.eval, device) if config.evaluate else None
    if distributed.is_main() and run.samples.lacking(run.num_images):
        warn_of_long_prompts(run)
    made = sample_missing(run)
    if distributed.is_main():
        for line in summary(run, made):
            log.info("%s", line)
    if config.evaluate:
        store = record_store(config)
        record = evaluator.record(run.samples, run.num_images, store, run.cost())
        log.info("record %s", store.path(record["run"], record["protocol"]))
        for name, value in record["metrics"].items():
            log.info("%-10s %.4f", name, value)


if __name__ == "__main__":
    main()
