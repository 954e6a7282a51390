"""Sample and evaluate a sweep: ``python -m scripts.sweep -m allocation.small=0,0.1,...,1``.

A point is one run with one record. Recorded points are skipped, half-sampled ones are finished;
points that differ only in their allocations share the beginnings of their trajectories. All points
run in one process, or on the ranks of one torchrun; with ``launcher=NAME`` each is a job of Hydra's
launcher.
"""

if not __package__:
    import as_module  # noqa: F401  says how to start it, and exits

import logging
import sys

import hydra
from hydra.core.utils import configure_log
from omegaconf import DictConfig, OmegaConf

from eval import experiments, overrides, terminal
from eval.evaluator import Evaluator
from models.files import check_writable
from scripts.cli import CONFIGS, check_groups, command, resolve, user_errors
from stitch.runs import build, devices, distributed
from stitch.runs.provenance import refuse_unclean
from stitch.runs.run import Run

log = logging.getLogger("sweep")


@command("sweep")
def main(config: DictConfig) -> None:
    sweep([config])


def multirun(words: list[str]) -> None:
    """All points that ``words`` span, in this process."""
    with user_errors(), hydra.initialize_config_dir(str(CONFIGS.resolve()), version_base="1.3"):
        check_groups(words)
        configs = []
        for point in overrides.expand(words):
            config = hydra.compose("sweep", point, return_hydra_config=not configs)
            if not configs:
                configure_log(config.hydra.job_logging)
                with_struct = OmegaConf.to_container(config)
                config = OmegaConf.create({k: v for k, v in with_struct.items() if k != "hydra"})
            resolve(config, "sweep")
            configs.append(config)
        sweep(configs)


def sweep(configs: list[DictConfig]) -> None:
    """Create the records of all points, or print what they cost; exit code 1 if a point fails."""
    device = devices.start(configs[0].device)
    planning = configs[0].dry_run
    # Points may differ in evaluation and in folder, though few do.
    parts: dict[str, tuple[DictConfig, list[Run]]] = {}
    for config in configs:
        if not planning:
            refuse_unclean("runs", config.runs)
        run = build.create(config, build.load_zoo(config, device), planning, probe=not planning)
        key = f"{config.runs} {config.store_images} {OmegaConf.to_yaml(config.eval)}"
        parts.setdefault(key, (config, []))[1].append(run)
    failures = {}
    for config, runs in parts.values():
        if not planning:
            check_writable(config.runs, "runs")
        evaluator, store = Evaluator(config.eval, device), experiments.record_store(config)
        if planning:
            for line in experiments.plan(runs, evaluator, store, config):
                log.info("%s", line)
            continue
        failures |= experiments.make_records(runs, evaluator, store, config.store_images)
        if distributed.is_main():
            made = [run for run in experiments.unique(runs) if run not in failures]
            found = {run: experiments.stored_record(run, evaluator, store) for run in made}
            for line in terminal.summary({run: record for run, record in found.items() if record}):
                log.info("%s", line)
    if failures:
        log.error("%d of %d points failed:", len(failures), len(configs))
        for reason in failures.values():
            log.error("  %s", reason)
        sys.exit(1)


if __name__ == "__main__":
    arguments = [overrides.fill_in(argument) for argument in sys.argv[1:]]
    sys.argv[1:] = arguments
    flags = {argument for argument in arguments if argument.startswith("-")}
    launcher = any(argument.startswith(("launcher=", "hydra/launcher=")) for argument in arguments)
    if flags and flags <= {"-m", "--multirun"} and not launcher:
        multirun([argument for argument in arguments if argument not in flags])
    else:
        main()
