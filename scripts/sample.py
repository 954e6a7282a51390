"""Sample images of one run: ``python -m scripts.sample allocation.small=0.4 num_images=5000``.

Alone or under ``torchrun --nproc-per-node=N -m scripts.sample``, on one machine or many (see
docs/distributed.md). Interrupt it at any time: the same command samples what is missing, and the
images are the same.
"""

if not __package__:
    import as_module  # noqa: F401  says how to start it, and exits

import logging

from omegaconf import DictConfig

from scripts.cli import command
from stitch.runs import build, devices, distributed
from stitch.runs.generate import sample_missing, summary
from stitch.runs.provenance import refuse_unclean

log = logging.getLogger("sample")


@command("sample")
def main(config: DictConfig) -> None:
    run = build.create(config, build.load_zoo(config, devices.start(config.device)), probe=True)
    refuse_unclean("samples", run.samples.path)
    made = sample_missing(run)
    if distributed.is_main():
        for line in summary(run, made):
            log.info("%s", line)


if __name__ == "__main__":
    main()
