"""Measure speed: ``python -m scripts.bench network zoo=imagenet256-dit batch_size=16``.

``network``: every denoiser against the machine's own matrix products; ``trajectory``: how much of
its possible speed-up stitching reaches; ``peers``: the same weights and steps in other libraries;
``profile``: the operators that a network call spends its time in; ``scaling``: more processes;
``latency``: scripts.latency by another name.
"""

if not __package__:
    import as_module  # noqa: F401  says how to start it, and exits

import logging
import runpy
import sys
from pathlib import Path

import torch
from omegaconf import DictConfig

from eval.speed import networks, peers, report, scaling, timing
from models.errors import InputError
from scripts.cli import command, overrides
from stitch.runs import devices
from stitch.runs.provenance import refuse_unclean

log = logging.getLogger("bench")

BENCHES = {
    "network": networks.network,
    "profile": networks.profile,
    "trajectory": networks.trajectory,
    "peers": peers.peers,
    "scaling": scaling.scaling,
}


@command("bench")
def main(config: DictConfig) -> None:
    if config.bench not in BENCHES:
        raise InputError(f"bench={config.bench} is unknown; known: {', '.join(BENCHES)}")
    refuse_unclean("results", config.results)
    device = devices.start(config.device)
    facts = timing.machine(device)
    if facts["load_average"] > timing.BUSY:
        log.warning(
            "the machine is loaded (load average %.1f on %d cores): times will spread",
            facts["load_average"],
            facts["cores"],
        )
    with torch.no_grad():
        rows = BENCHES[config.bench](config, device)
    rows = [{"bench": config.bench, "zoo": config.zoo.name, **row} for row in rows]
    compared = config.peers if config.bench == "peers" else []
    name = "-".join([config.bench, *compared, config.zoo.name, *(config.denoisers or [])])
    settings = [s for s in overrides() if not s.startswith("results=")]
    words = " ".join(["python -m scripts.bench", *settings])
    stem = Path(config.results) / name
    print(report.write(stem, words, facts, rows, config.repetitions))
    log.info("%s.md", stem)


if __name__ == "__main__":
    if "latency" in sys.argv[1:]:
        sys.argv.remove("latency")
        runpy.run_module("scripts.latency", run_name="__main__")
    else:
        sys.argv = [f"bench={word}" if word in BENCHES else word for word in sys.argv]
        main()
