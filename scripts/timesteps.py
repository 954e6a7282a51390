"""Fit few timesteps to a many-step trajectory: ``python -m scripts.timesteps sampler=unipc``.

The file that it writes is for ``sampler.spacing=FILE``. It needs no images and no FID: the latents
after few steps are brought near to those that the same noise gives after many.
"""

if not __package__:
    import as_module  # noqa: F401  says how to start it, and exits

import json
import logging
from pathlib import Path

from omegaconf import DictConfig

from models.errors import InputError
from models.files import check_writable, write_atomically
from scripts.cli import command
from stitch.runs import build, devices, fitting
from stitch.runs.provenance import refuse_unclean

log = logging.getLogger("timesteps")


@command("timesteps")
def main(config: DictConfig) -> None:
    if not config.results.endswith(".json"):
        raise InputError(f"results={config.results} must be the name of a .json file")
    refuse_unclean("results", config.results)
    check_writable(Path(config.results).parent, "results")
    found = fitting.fit(config, build.load_zoo(config, devices.start(config.device)), log.info)
    write_atomically(config.results, (json.dumps(found, indent=1) + "\n").encode())
    for images in ("error", "held_out_error"):
        errors = found[images]
        log.info("%-14s %.4f before, %.4f after", images, errors["before"], errors["after"])
    log.info("%s, after %s network evaluations", config.results, f"{found['evaluations']:,}")


if __name__ == "__main__":
    main()
