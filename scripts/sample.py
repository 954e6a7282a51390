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
from stitch.runs.generate import sample_missing
from stitch.runs.provenance import refuse_unclean
from stitch.runs.shards import folder_digest

log = logging.getLogger("sample")


@command("sample")
def main(config: DictConfig) -> None:
    run = build.create(config, build.load_zoo(config, devices.start(config.device)), probe=True)
    refuse_unclean("samples", run.samples.path)
    made = sample_missing(run)
    if distributed.is_main():
        done = "" if made else " (all already existed)"
        log.info("run %s: %s", run.id, run.allocation)
        log.info("%d images in %s%s", run.num_images, run.samples.path, done)
        log.info("sha256 of the images: %s", folder_digest(run.samples, run.num_images))


if __name__ == "__main__":
    main()
