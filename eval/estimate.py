"""What runs cost before they are made: network evaluations, multiply-accumulates, hours."""

import dataclasses
import itertools
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from models.errors import InputError
from stitch.cost import CostTable
from stitch.prefix import shared_evaluations
from stitch.runs import devices
from stitch.runs.grouped import groups
from stitch.runs.run import Run
from stitch.runs.text2image import TextRun

SAMPLERS = {
    "ddim": "DDIM",
    "ddpm": "DDPM",
    "dpm_solver": "DPM-Solver++",
    "pndm": "PNDM",
    "unipc": "UniPC",
}
ASSUMED = "imagenet256"  # whose throughput counts for zoos that no data set lists


@dataclass(frozen=True)
class Cost:
    """What some runs cost, in all.

    Attributes:
        evaluations: of networks in full, if every run were made by itself.
        shared: without those that beginnings in common save, which is what is really made.
        macs: multiply-accumulates of those.
        hours: on each of several numbers of devices, of the one that works longest: a shard is
            made by one.
    """

    evaluations: int
    shared: int
    macs: float
    hours: tuple[float, ...]

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.evaluations + other.evaluations,
            self.shared + other.shared,
            self.macs + other.macs,
            tuple(a + b for a, b in zip(self.hours, other.hours, strict=True)),
        )


def cost(runs: Iterable[Run], tables: "Costs") -> Cost:
    """What ``runs`` cost, beginnings in common made once, shards whole."""
    total = Cost(0, 0, 0.0, (0.0,) * len(tables.devices))
    for group in groups(runs):
        first, count = group[0], group[0].num_images
        calls = shared_evaluations(run.calls for run in group)
        macs = {call: cost for run in group for call, cost in run.macs.items()}
        seconds = tables.of(group).seconds_per_image(calls, len(group)) * count
        shards = math.ceil(count / first.samples.shard_size)
        total += Cost(
            sum(len(run.networks) for run in group) * count,
            sum(call in first.zoo.specs for call in calls) * count,
            float(sum(macs[call] for call in calls) * count),
            tuple(seconds / 3600 * math.ceil(shards / n) / shards for n in tables.devices),
        )
    return total


class Costs:
    """Cost tables of zoos: measured here by ``scripts.plan``, or of a data set's throughput.

    Args:
        config: has ``runs``, where measured tables are, and ``datasets`` (configs/datasets.yaml).

    Attributes:
        devices: the numbers of devices that hours are stated for.
        sources: what the tables used so far were measured on, or assume.
    """

    def __init__(self, config: DictConfig):
        dataset = dataset_of(config) or ASSUMED
        self.throughput = OmegaConf.to_container(config.datasets[dataset].throughput)
        self.devices: Sequence[int] = self.throughput["devices"]
        self.sources: list[str] = []
        files = (Path(config.runs) / "costs").glob("*.json")
        tables = [CostTable.from_json(json.loads(file.read_text())) for file in files]
        self._measured = sorted(tables, key=lambda table: table.facts["time"], reverse=True)

    def of(self, group: Sequence[Run]) -> CostTable:
        """The table for runs of one setting: of measured ones that of the nearest batch size.

        Of several of one batch size, the newest.
        """
        run = group[0]
        calls = {call for run in group for call in itertools.chain(*run.calls)}
        device = devices.name(run.zoo.device)
        here = {
            "zoo": run.zoo.name,
            "dtype": run.settings["dtype"],
            "quantisation": run.settings.get("quantisation"),  # pipelines have none
            "compile": run.compile,
            "decoder": run.zoo.decoder,
            "device": device,
        }
        usable = [
            table
            for table in self._measured
            if here.items() <= table.facts.items() and calls <= table.evaluation_seconds().keys()
        ]
        if usable:
            table = min(usable, key=lambda table: abs(table.batch - run.batch_size))
            words = [here["dtype"], here["quantisation"], "compiled" if run.compile else None]
            words += [f"decoder {run.zoo.decoder}", f"batch {table.batch}"]
            source = f"{device}, by its cost table of {', '.join(filter(None, words))}"
        else:
            table = self._stated(group)
            source = f"{self.throughput['device']} ({self.throughput['basis']})"
        if source not in self.sources:
            self.sources.append(source)
        return table

    def _stated(self, group: Sequence[Run]) -> CostTable:
        zoo = group[0].zoo
        known, rate = self.throughput["ms_per_evaluation"], self.throughput["macs_per_second"]
        macs = {name: zoo.macs(name) for name in zoo.specs}
        macs |= {call: count for run in group for call, count in run.macs.items()}
        table = CostTable.from_throughput(macs, rate)
        measured = {(name,): known[name] / 1e3 for name in zoo.specs if name in known}
        return dataclasses.replace(table, steps={**table.steps, **measured})


@dataclass(frozen=True)
class PlanLine:
    """A line of a plan: some runs, those of them that are missing, and what these cost."""

    label: str
    setting: str
    runs: int
    missing: int
    cost: Cost


def plan_text(lines: Sequence[PlanLine], tables: Costs) -> list[str]:
    """A plan as lines of text, the head first, what its hours are of last."""
    hours = "".join(f"{f'h on {n}':>10}" for n in tables.devices)
    width = max(len(line.setting) for line in lines)
    label = max(len(line.label) for line in lines)
    text = [
        f"{'':{label}} {'setting':{width}} {'runs':>5} {'done':>5} {'missing':>7} {'NFE':>14} "
        f"{'shared':>14} {'MACs':>8}{hours}"
    ]
    for line in lines:
        spent = line.cost
        times = "".join(f"{time:10.3g}" for time in spent.hours)
        text.append(
            f"{line.label:{label}} {line.setting:{width}} {line.runs:5} "
            f"{line.runs - line.missing:5} {line.missing:7} {spent.evaluations:14,} "
            f"{spent.shared:14,} {spent.macs:8.2g}{times}"
        )
    text += [f"hours of sampling on N devices, each {source}" for source in tables.sources]
    text.append("shared: network evaluations without those that beginnings in common save")
    return text


def setting_text(run: Run) -> str:
    """What the runs of a group have in common, for people."""
    sampler = run.settings["sampler"]
    return (
        f"{run.zoo.name}: {SAMPLERS.get(sampler['name'], sampler['name'])} {sampler['steps']} "
        f"steps, w = {run.guidance.scale:g}, {run.num_images:,} images{cache_text(run)}"
    )


def cache_text(run: Run) -> str:
    """What is forecast in a run, for people; empty if nothing is."""
    return f", {run.cache}" if run.cache else ""


def plan_of(run: TextRun, tables: Costs) -> list[str]:
    """What one run of a pipeline needs and costs, as lines of text."""
    missing = len(run.samples.lacking(run.num_images)) > 0
    spent = cost([run], tables) if missing else Cost(0, 0, 0.0, (0.0,) * len(tables.devices))
    return [
        f"{run.zoo.name}: {run.zoo.gigabytes():.3g} GB of weights"
        + (f"; {run.problem}" if run.problem else ", all here"),
        *plan_text([PlanLine("", setting_text(run), 1, int(missing), spent)], tables),
    ]


def dataset_of(config: DictConfig) -> str | None:
    """The data set of ``configs/datasets.yaml`` that lists the config's zoo or pipeline, if any."""
    kind = "pipeline" if config.get("pipeline") else "zoo"
    for dataset, facts in config.datasets.items():
        if config[kind].name in {family.get(kind) for family in facts.families.values()}:
            return dataset
    return None


def check_dataset(config: DictConfig) -> str:
    """``dataset_of``, of a zoo that has figures.

    Raises:
        InputError: if no data set lists the zoo.
    """
    dataset = dataset_of(config)
    if dataset is None:
        kind = "pipeline" if config.get("pipeline") else "zoo"
        families = [f for facts in config.datasets.values() for f in facts.families.values()]
        known = ", ".join(sorted({family[kind] for family in families if kind in family}))
        raise InputError(f"{kind}={config[kind].name} has no figures; known: {known}")
    return dataset
