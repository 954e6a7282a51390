"""Allocations that fit a time budget.

Times are predicted from a cost table: the time of a step of each denoiser at the batch size, and
of all else. It is measured at the first call and kept in ``RUNS/costs``; ``measure=true`` does so
again.

Under the budget, allocations with a record come first, the best FID first (those of the Pareto
frontier are marked). The others follow by a rule of thumb: the more is computed, and the later in
the trajectory, the better (``stitch.cost.lateness``).
"""

import dataclasses
import json
import logging
import re
import statistics
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from eval.speed import latency, timing
from models.errors import InputError
from models.files import read_json, write_atomically
from stitch import pareto_frontier
from stitch.cost import CostTable, lateness
from stitch.runs import distributed
from stitch.runs.provenance import refuse_unclean
from stitch.runs.records import ResultStore, content_hash
from stitch.runs.run import Run
from stitch.runs.warmup import prepare

log = logging.getLogger("plan")

UNITS = {"ms": 1e-3, "s": 1.0, "min": 60.0}


@dataclass(frozen=True, eq=False)
class Choice:
    """One allocation.

    Attributes:
        seconds: predicted, of a batch.
        late_macs: see ``stitch.cost.lateness``, per image.
        metrics: as recorded; None without a record.
        on_frontier: whether no recorded allocation is both faster and of a better FID.
    """

    run: Run
    seconds: float
    late_macs: float
    metrics: dict | None
    on_frontier: bool


def parse_budget(text: str | float) -> float:
    """Seconds: ``2.5s``, ``800ms``, ``1min``; a number by itself is seconds.

    Raises:
        InputError: for anything else.
    """
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*(ms|s|min)?\s*", str(text))
    seconds = float(match[1]) * UNITS[match[2] or "s"] if match else 0.0
    if not seconds > 0:
        raise InputError(f"budget={text} must be a time above 0, such as 2.5s, 800ms or 1min")
    return seconds


def cost_table(config: DictConfig, points: list[Run]) -> CostTable:
    """The cost table of these runs on this machine: measured before, or now.

    To be called by all ranks. One of them reads or measures it for all: by times of their own they
    would choose different runs.
    """
    return distributed.from_main(lambda: _cost_table(config, points))


def _cost_table(config: DictConfig, points: list[Run]) -> CostTable:
    known = {
        **latency.setting(config, points),
        "weights": {k: v for run in points for k, v in run.settings["weights"].items()},
    }
    path = Path(config.runs) / "costs" / f"{content_hash(known)}.json"
    if path.is_file() and not config.measure:
        table = CostTable.from_json(json.loads(path.read_text()))
        if {step for run in points for step in run.calls} <= table.steps.keys():
            log.info("cost table of %s: %s", table.facts["time"], path)
            return table
    refuse_unclean("runs", path)
    table = latency.measure_costs(config, points, config.batch_size)
    table = dataclasses.replace(table, facts={**known, **table.facts})
    write_atomically(path, (json.dumps(table.to_json(), indent=2) + "\n").encode())
    return table


def find_records(config: DictConfig, points: list[Run]) -> dict[str, dict]:
    """Hash of run -> its record, of the protocol under which most runs have one with FID."""
    wanted = {run.id for run in points}
    found = [
        (content_hash(record["protocol"]), name, record)
        for record in ResultStore(Path(config.runs) / "records").all()
        if (name := content_hash(record["run"])) in wanted and "fid" in record["metrics"]
    ]
    if not found:
        return {}
    (protocol, _), *_ = Counter(protocol for protocol, *_ in found).most_common()
    return {name: record for of, name, record in found if of == protocol}


def rank(points: list[Run], costs: CostTable, records: dict[str, dict]) -> list[Choice]:
    """Every run with its predicted time, the best first."""
    walked = [run.calls for run in points]
    seconds = [costs.seconds(steps) for steps in walked]
    metrics = [records.get(run.id, {}).get("metrics") for run in points]
    recorded = [i for i, values in enumerate(metrics) if values]
    frontier = {
        recorded[i]
        for i in pareto_frontier(
            [seconds[i] for i in recorded], [metrics[i]["fid"] for i in recorded]
        )
    }
    macs = {call: cost for run in points for call, cost in run.macs.items()}
    choices = [
        Choice(run, seconds[i], lateness(walked[i], macs), metrics[i], i in frontier)
        for i, run in enumerate(points)
    ]
    return sorted(
        choices,
        key=lambda c: (c.metrics is None, c.metrics["fid"] if c.metrics else -c.late_macs),
    )


def within(choices: list[Choice], budget: float) -> list[Choice]:
    """The choices that take at most ``budget`` seconds.

    Raises:
        InputError: if there is none, saying the least that one takes.
    """
    fitting = [choice for choice in choices if choice.seconds <= budget]
    if not fitting:
        cheapest = min(choices, key=lambda choice: choice.seconds)
        raise InputError(
            f"budget={budget:g}s is below the cheapest allocation, {cheapest.run.allocation}: it "
            f"takes {cheapest.seconds:.3g} s, the minimum; give more, fewer sampler.steps or a "
            "smaller batch"
        )
    return fitting


def searched(path: str | Path, budget: float, top: int) -> list[str]:
    """The best settings that a search found within a time per image, as lines of text.

    Args:
        path: ``frontier.json`` of ``scripts.search``.
        budget: seconds of one image, in batches as the search had them.

    Raises:
        InputError: if it is no result of a search, or nothing in it is as fast.
    """
    found = read_json(path)
    if not isinstance(found, dict) or not {"points", "batch_size", "device"} <= found.keys():
        raise InputError(f"search={path} is no result of scripts.search; give its frontier.json")
    points = [point for point in found["points"] if point["ms_per_image"] <= 1e3 * budget]
    if not points:
        fastest = min(point["ms_per_image"] for point in found["points"])
        raise InputError(
            f"budget={budget:g}s is below the fastest setting of search={path}, "
            f"{fastest / 1e3:.3g}s an image; give more"
        )
    best = sorted(points, key=lambda point: point["fid"])[:top]
    return [
        f"{found['zoo']} on {found['device']}, batch {found['batch_size']}, by {path}",
        *(f"{p['ms_per_image']:8.2f} ms  FID {p['fid']:.3f}  {p['command']}" for p in best),
    ]


def verify(run: Run, batch: int, repetitions: int) -> float:
    """Measured seconds of a batch, the median after a warm-up."""
    one = run.one_batch(batch)
    prepare(one)
    tasks = {"batch": lambda: one.images(range(batch))}
    return statistics.median(timing.in_turn(tasks, repetitions, run.zoo.device)["batch"])


def table(choices: list[Choice]) -> list[str]:
    """Choices as lines of text."""
    width = max(len(str(choice.run.allocation)) for choice in choices)
    lines = [f"{'allocation':{width}} {'seconds':>8} {'FID':>8}  chosen by"]
    for choice in choices:
        fid = f"{choice.metrics['fid']:8.3f}" if choice.metrics else f"{'-':>8}"
        why = "late MACs (no record)"
        if choice.metrics:
            why = "record, Pareto frontier" if choice.on_frontier else "record"
        lines.append(f"{choice.run.allocation!s:{width}} {choice.seconds:8.3f} {fid}  {why}")
    return lines
