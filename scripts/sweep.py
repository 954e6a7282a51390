"""Sample and evaluate a sweep: ``python -m scripts.sweep -m allocation.small=0,0.1,...,1``.

A point is one run with one record. Recorded points are skipped, half-sampled ones are finished;
points that differ in their allocations only share the beginnings of their trajectories. All points
are made by one process, or by the ranks of one torchrun; with ``launcher=NAME`` each is a job of
Hydra's launcher.
"""

if not __package__:
    import as_module  # noqa: F401  says how to start it, and exits

import dataclasses
import itertools
import json
import logging
import math
import re
import sys
import tempfile
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import configure_log
from omegaconf import DictConfig, OmegaConf

from eval.results import ResultStore, content_hash
from eval.shards import ShardFolder, folder_digest
from models.errors import InputError
from scripts import job as jobs
from scripts import launch
from scripts.cli import CONFIGS, check_groups, command, is_mistake, resolve, user_errors
from scripts.evaluate import Evaluator
from scripts.provenance import refuse_unclean
from scripts.together import groups, sample_together
from stitch import evaluations, shared_evaluations
from stitch.cost import CostTable

log = logging.getLogger("sweep")


@command("sweep")
def main(config: DictConfig) -> None:
    sweep([config])


def multirun(overrides: list[str]) -> None:
    """All points that ``overrides`` span, in this process."""
    with user_errors(), hydra.initialize_config_dir(str(CONFIGS.resolve()), version_base="1.3"):
        check_groups(overrides)
        configs = []
        for point in expand(overrides):
            config = hydra.compose("sweep", point, return_hydra_config=not configs)
            if not configs:
                configure_log(config.hydra.job_logging)
                with_struct = OmegaConf.to_container(config)
                config = OmegaConf.create({k: v for k, v in with_struct.items() if k != "hydra"})
            resolve(config, "sweep")
            configs.append(config)
        sweep(configs)


def expand(overrides: list[str]) -> list[list[str]]:
    """The points of a sweep, in the order of Hydra's multirun: the last list varies fastest.

    Args:
        overrides: as Hydra's, with lists such as ``guidance.scale=1.5,2``, ``range(...)``,
            ``choice(...)`` or ``allocation.small=0,0.1,...,1``.

    Raises:
        HydraException: for what Hydra cannot parse.
    """
    parsed = OverridesParser.create().parse_overrides([fill_in(one) for one in overrides])
    values = [
        [f"{one.get_key_element()}={value}" for value in one.sweep_string_iterator()]
        if one.is_sweep_override()
        else [one.input_line]
        for one in parsed
    ]
    return [list(point) for point in itertools.product(*values)]


def fill_in(override: str) -> str:
    """``0,0.1,...,1`` written out, in decimal arithmetic so that no 0.30000000000000004 comes.

    Raises:
        InputError: if the steps do not lead from the first value to the last.
    """
    number = r"-?\d+(?:\.\d+)?"

    def written_out(match: re.Match) -> str:
        first, second, last = (Decimal(text) for text in match.groups())
        step = second - first
        if not step or (last - first) / step < 1 or (last - first) % step:
            raise InputError(
                f"{override}: {match[0]} has no steps of {step} from {first} to {last}; write the "
                "values out"
            )
        count = int((last - first) / step)
        return ",".join(f"{(first + i * step).normalize():f}" for i in range(count + 1))

    return re.sub(rf"({number}),({number}),\.\.\.,({number})(?![\d.])", written_out, override)


def sweep(configs: list[DictConfig]) -> None:
    """Make the records of all points, or say what that takes; exit code 1 if a point fails."""
    device = launch.start()
    if configs[0].dry_run:
        points = [jobs.create(c, jobs.load_zoo(c, device), planning=True) for c in configs]
        evaluator, store = Evaluator(configs[0].eval, device), record_store(configs[0])
        missing = [p for p in unique(points) if stored_record(p, evaluator, store) is None]
        for line in plan_text(unique(points), missing, configs[0]):
            log.info("%s", line)
        return
    for config in configs:
        refuse_unclean("runs", config.runs)
    # Points may differ in how they are evaluated and where they are kept, though few do.
    parts: dict[str, tuple[DictConfig, list[jobs.Job]]] = {}
    for config in configs:
        job = jobs.create(config, jobs.load_zoo(config, device))
        key = f"{config.runs} {OmegaConf.to_yaml(config.eval)}"
        parts.setdefault(key, (config, []))[1].append(job)
    failures = {}
    for config, points in parts.values():
        check_writable(config.runs)
        evaluator, store = Evaluator(config.eval, device), record_store(config)
        failed = make_records(points, evaluator, store)
        for job in points if launch.is_main() else []:
            report(job, evaluator, store, failed)
        failures |= failed
    if failures:
        log.error("%d of %d points failed:", len(failures), sum(len(p) for _, p in parts.values()))
        for reason in failures.values():
            log.error("  %s", reason)
        sys.exit(1)


def report(job: jobs.Job, evaluator: Evaluator, store: ResultStore, failed: dict) -> None:
    """Say what came out at one point."""
    record = stored_record(job, evaluator, store)
    if record is None or content_hash(job.run) in failed:
        return
    values = ", ".join(f"{name} {value:.4f}" for name, value in record["metrics"].items())
    log.info("%s (run %s): %s", job.allocation, content_hash(job.run), values)


def record_store(config: DictConfig) -> ResultStore:
    """Where the records of a config's runs are."""
    return ResultStore(Path(config.runs) / "records")


def stored_record(job: jobs.Job, evaluator: Evaluator, store: ResultStore) -> dict | None:
    """The record of a run if it was made before."""
    return store.get(job.run, evaluator.protocol(job.num_images))


def make_records(
    points: Iterable[jobs.Job], evaluator: Evaluator, store: ResultStore
) -> dict[str, str]:
    """Sample and evaluate every run that has no record, by all ranks.

    Runs that differ in their allocations only are sampled together (see ``scripts.together``). A
    run that fails is left out, the others are finished.

    Returns:
        Hash of run -> its allocation and what went wrong.
    """
    points = unique(points)
    failures, counts = {}, {"made": 0, "saved": 0}

    def recorded(job: jobs.Job) -> bool:
        # Looked up as late as possible: another sweep may have made it in the meantime.
        return launch.from_main(lambda: stored_record(job, evaluator, store) is not None)

    for group in groups(points):
        missing = []
        for job in group:
            if not recorded(job):
                missing.append(job)
            elif difference := launch.from_main(lambda job=job: changed(job, evaluator, store)):
                failures[content_hash(job.run)] = f"{job.allocation}: {difference}"
            else:
                log.info("%s is recorded already", job.allocation)
        failed, made = sample_together(missing) if missing else ({}, {})
        counts = {key: counts[key] + made.get(key, 0) for key in counts}
        for job in missing:
            name = content_hash(job.run)
            try:
                if name not in failed:
                    evaluator.record(job.samples, job.num_images, store, job.cost())
            except Exception as error:
                if launch.world_size() > 1:
                    raise  # the other ranks wait for this one: torchrun ends them all
                if not is_mistake(error):
                    log.exception("%s failed", job.allocation)
                failed[name] = f"{type(error).__name__}: {error}"
            if name in failed:
                failures[name] = f"{job.allocation}: {failed[name]}"
    if counts["saved"]:
        whole = counts["made"] + counts["saved"]
        log.info(
            "shared beginnings saved %s of %s network evaluations (%.0f %%)",
            f"{counts['saved']:,}",
            f"{whole:,}",
            100 * counts["saved"] / whole,
        )
    return failures


def unique(points: Iterable[jobs.Job]) -> list[jobs.Job]:
    """The points without those that are another one's run again."""
    return list({(content_hash(job.run), job.num_images): job for job in points}.values())


def changed(job: jobs.Job, evaluator: Evaluator, store: ResultStore) -> str | None:
    """What is wrong if a record was made of other images than those in the run's folder."""
    folder: ShardFolder = job.samples
    record = stored_record(job, evaluator, store)
    if not folder.path.is_dir() or folder.missing(job.num_images):
        return None
    there, here = record["provenance"]["images_sha256"], folder_digest(folder, job.num_images)
    if there == here:
        return None
    path = store.path(job.run, evaluator.protocol(job.num_images))
    return (
        f"{path} was made by commit {record['provenance']['commit']} of other images (sha256 "
        f"{there[:16]}) than {folder.path} holds ({here[:16]}); move one of them away"
    )


def check_writable(folder: str | Path) -> None:
    """Raise InputError unless files can be made in ``folder``."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"runs={folder} cannot be written to ({error.strerror}); choose another folder"
        ) from error


def plan_text(points: list[jobs.Job], missing: list[jobs.Job], config: DictConfig) -> list[str]:
    """What a sweep has and lacks, and what the rest costs on some numbers of devices.

    Args:
        config: has ``runs``, where cost tables are, and ``throughput`` (``configs/sweep.yaml``).
    """
    devices, sources = config.throughput.devices, {}
    columns = "".join(f"{f'h on {count}':>10}" for count in devices)
    head = f"{'points':>6} {'done':>5} {'missing':>7} {'NFE':>14} {'shared':>14}"
    lines = [f"{head}{columns}  setting"]
    totals = [0.0] * len(devices)
    absent = {id(job) for job in missing}
    for group in groups(points):
        lacking = [job for job in group if id(job) in absent]
        nfe, names = expense(lacking)
        costs = known_costs(group[0], config)
        sources.setdefault(costs.facts["source"])
        hours = costs.seconds_per_image(names, len(lacking)) * group[0].num_images / 3600
        times = [hours * _share_of(group[0], count) for count in devices]
        totals = [a + b for a, b in zip(totals, times, strict=True)]
        lines.append(
            f"{len(group):6} {len(group) - len(lacking):5} {len(lacking):7} "
            f"{nfe * group[0].num_images:14,} {len(names) * group[0].num_images:14,}"
            + "".join(f"{time:10.3g}" for time in times)
            + f"  {setting_text(group[0])}"
        )
    lines.append(f"{'in all':>50}" + "".join(f"{time:10.3g}" for time in totals))
    lines += [f"hours of devices as {source}" for source in sources]
    lines.append("shared: network evaluations without those that beginnings in common save")
    return lines


def expense(group: list[jobs.Job]) -> tuple[int, list[str]]:
    """Network evaluations for one image of a group's runs, and those with beginnings shared."""
    if not group:
        return 0, []
    log_snr = group[0].sampler.schedule.log_snr(group[0].sampler.timesteps)
    walked = [evaluations(job.allocation, job.guidance, log_snr) for job in group]
    return sum(len(step) for steps in walked for step in steps), shared_evaluations(walked)


def known_costs(job: jobs.Job, config: DictConfig) -> CostTable:
    """The cost table that ``scripts.plan`` measured here, or one of the stated throughput.

    Of measured ones, that of the batch size which is nearest to the sweep's.
    """
    here = {
        "zoo": job.zoo.name,
        "dtype": job.run["dtype"],
        "device": launch.device_name(job.zoo.device),
    }
    tables = [
        CostTable.from_json(json.loads(file.read_text()))
        for file in sorted((Path(config.runs) / "costs").glob("*.json"))
    ]
    usable = [
        table
        for table in tables
        if here.items() <= table.facts.items()
        and set(job.zoo.default_denoisers) <= table.evaluation_seconds().keys()
    ]
    if usable:
        best = min(usable, key=lambda table: abs(table.batch - job.batch_size))
        source = f"{here['device']}, by its cost table of {here['dtype']}, batch {best.batch}"
        return dataclasses.replace(best, facts={"source": source})
    rate, source = config.throughput.macs_per_second, config.throughput.source
    macs = {name: job.zoo.macs(name) for name in job.zoo.specs}
    table = CostTable.from_throughput(macs, rate)
    return dataclasses.replace(table, facts={"source": f"of {rate:.3g} MAC/s each: {source}"})


def _share_of(job: jobs.Job, devices: int) -> float:
    """The share of the work that the busiest device does: a shard is made by one."""
    shards = math.ceil(job.num_images / job.samples.shard_size)
    return math.ceil(shards / devices) / shards


def setting_text(job: jobs.Job) -> str:
    """What a group's runs have in common, for people."""
    sampler = job.run["sampler"]
    return (
        f"{job.zoo.name}, {sampler['name']} {sampler['steps']}, guidance {job.guidance.scale:g}, "
        f"{job.num_images:,} images, seed {job.run['seed']}"
    )


if __name__ == "__main__":
    arguments = [fill_in(argument) for argument in sys.argv[1:]]
    sys.argv[1:] = arguments
    flags = {argument for argument in arguments if argument.startswith("-")}
    launcher = any(argument.startswith(("launcher=", "hydra/launcher=")) for argument in arguments)
    if flags and flags <= {"-m", "--multirun"} and not launcher:
        multirun([argument for argument in arguments if argument not in flags])
    else:
        main()
