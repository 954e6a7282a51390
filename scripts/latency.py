"""Measure how long allocations take: ``python -m scripts.latency zoo=fashion sampler.steps=20``.

``pipeline=NAME shares=[0,0.5,1]`` measures a pipeline of diffusers. Results go to ``RUNS/latency``.
"""

if not __package__:
    import as_module  # noqa: F401  says how to start it, and exits

import json
import logging
from pathlib import Path

from omegaconf import DictConfig

from eval.speed import latency
from models.files import write_atomically
from scripts.cli import command
from stitch.runs import build, devices
from stitch.runs.pipeline import load_pipeline
from stitch.runs.provenance import refuse_unclean
from stitch.runs.records import content_hash

log = logging.getLogger("latency")


@command("latency")
def main(config: DictConfig) -> None:
    refuse_unclean("runs", config.runs)
    device = devices.start(config.device)
    if config.get("pipeline"):
        runs = latency.shares(config, load_pipeline(config, device))
    else:
        runs = latency.allocations(config, build.load_zoo(config, device))
    measured = {
        **latency.setting(config, runs),
        "allocations": [str(run.allocation) for run in runs],
    }
    path = Path(config.runs) / "latency" / f"{content_hash(measured)}.json"
    result = latency.measure(config, runs)
    write_atomically(path, (json.dumps(result, indent=2) + "\n").encode())
    for line in latency.table(result):
        log.info("%s", line)
    log.info("%s", path)


if __name__ == "__main__":
    main()
