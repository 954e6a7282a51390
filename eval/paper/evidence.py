"""What figures are drawn from: records, samples, trajectories and latencies, each by its file."""

import logging
import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from eval.estimate import Cost, Costs, PlanLine, cost, plan_text, setting_text
from eval.evaluator import Evaluator
from eval.experiments import make_records, once, record_store, stored_record
from eval.experiments import unique as unique_runs
from eval.paper import commands, shown, tables
from eval.paper.points import Planner, Point, unique
from models.errors import InputError
from models.zoo import ROOT
from stitch.runs import distributed, trajectories
from stitch.runs.generate import sample_missing
from stitch.runs.records import content_hash
from stitch.runs.run import Run
from stitch.runs.text2image import TextRun

log = logging.getLogger("figures")


def figures_folder(config: DictConfig, planner: Planner) -> Path:
    """Where the pictures of a zoo, or a pipeline, under a protocol go."""
    default = Path(config.runs) / "figures" / config[planner.chosen].name / planner.protocol
    return Path(config.figures or default)


class Evidence:
    """What figures are drawn from: records, samples, trajectories, latencies."""

    def __init__(self, config: DictConfig, planner: Planner):
        self.config, self.runs = config, Path(config.runs)
        self.planner, self.store = planner, record_store(config)
        self.latencies = tables.latencies(self.runs)
        self._evaluator: Evaluator | None = None

    @property
    def evaluator(self) -> Evaluator:
        if self._evaluator is None:
            self._evaluator = Evaluator(self.planner.config.eval, self.planner.device)
        return self._evaluator

    def kind(self, figure: dict) -> str:
        if figure.get("latency"):
            return "latency"
        if "beside" in figure and figure["across"] != "prompts":
            return "record"  # and samples
        sources = {"grid": "samples", "similarity": "trajectory", "spectrum": "trajectory"}
        return sources.get(figure["kind"], "record")

    def of(self, figure: dict, points: Sequence[Point]) -> list:
        """What is known of the points of a figure, whose times are of one file if one has them."""
        self.latencies = tables.latencies(self.runs, [point.run.timing_key for point in points])
        return [self.get(figure, point) for point in points]

    def get(self, figure: dict, point: Point):
        """What is known of a point, or None.

        A record comes with its ``timing``, and with the run's own cost if ``scripts.evaluate`` made
        it, which knows of images only; so do samples.
        """
        run, kind = point.run, self.kind(figure)
        if run.settings["weights"] is None:
            return None
        if kind == "record":
            record = stored_record(run, self.evaluator, self.store)
            if record is None or self.unshown(figure, run):
                return None
            cost = {**run.cost(), **record["cost"]}
            return {**record, "cost": cost, "timing": self.timing(point, record)}
        if kind == "trajectory":
            return trajectories.load(run, self.runs)
        if kind == "latency":
            return self.latency(run)
        if self.unshown(figure, run):
            return None
        timed = "time" in figure.get("beside", [])
        return {"timing": (self.latency(run) if timed else None) or {}}

    def unshown(self, figure: dict, run: Run) -> int:
        """How many of a run's images a grid needs that are not there."""
        if figure["kind"] != "grid":
            return 0
        return run.samples.missing(shown.needed(figure, run))

    def latency(self, run: Run) -> dict | None:
        """What ``scripts.latency`` measured of a run, or None."""
        return self.latencies.get(run.timing_key)

    def timing(self, point: Point, record: dict) -> dict:
        """``ms_per_image``, of what ``device`` and ``batch_size``, and the file that says so.

        Measured for itself, a time is better than what sampling happened to take; empty if there
        is neither, as of a run that shared the beginnings of its trajectories. Of pipelines, which
        sample with their own start and end of every batch, only the former counts.
        """
        sampled = {**record["cost"], "timing_source": self.record(point)}
        known = self.latency(point.run) or ({} if isinstance(point.run, TextRun) else sampled)
        facts = ("ms_per_image", "device", "batch_size", "timing_source")
        return {fact: known[fact] for fact in facts} if "ms_per_image" in known else {}

    def record(self, point: Point) -> str:
        """The file of a point's record."""
        protocol = self.evaluator.protocol(point.run.num_images)
        return str(self.store.path(point.run.settings, protocol))

    def lacking(self, figure: dict, points: list[Point]) -> list[Point]:
        """The points of which nothing is known yet, each run once."""
        return [point for point in unique(points) if self.get(figure, point) is None]

    def of_other_images(self, points: Sequence[Point]) -> list[int]:
        """How many images the records of these runs have that are of more or fewer than asked."""
        asked: dict[str, set[int]] = {}
        for point in points:
            asked.setdefault(point.run.id, set()).add(point.run.num_images)
        found = ((content_hash(r["run"]), r["protocol"]["num_images"]) for r in self.store.all())
        return [images for run, images in found if run in asked and images not in asked[run]]

    def sources(self, figure: dict, point: Point, known) -> dict[str, str]:
        """The files behind a point's numbers.

        ``source`` of what was sampled and its quality, ``timing_source`` and ``memory_source`` of
        what was measured of its speed, ``network_sources`` of what its networks are.
        """
        run, kind = point.run, self.kind(figure)
        sources = {}
        if kind == "record":
            sources["source"] = self.record(point)
        elif kind == "trajectory":
            sources["source"] = str(trajectories.path_of(run, self.runs))
        elif kind == "samples":
            sources["source"] = str(run.samples.path)
        files = known.get("timing", known) if isinstance(known, dict) else {}
        sources |= {k: files[k] for k in ("timing_source", "memory_source") if k in files}
        if tables.OF_NETWORKS.keys() & set(figure.get("columns", [])):
            paths = [run.zoo.checkpoint(name) for name in run.allocation.denoisers]
            sources["network_sources"] = [os.path.relpath(path, ROOT) for path in paths]
        return sources


def make_missing(figures: dict, lacking: dict[str, list[Point]], evidence: Evidence) -> list[str]:
    """Make every missing point, each once, by all ranks; return what failed and why."""
    work: dict[str, list[Point]] = {"record": [], "trajectory": [], "samples": [], "latency": []}
    samples: list[Run] = []
    for name, points in lacking.items():
        known = [point for point in points if point.run.settings["weights"] is not None]
        work[evidence.kind(figures[name])] += known
        runs = [point.run for point in known]
        if figures[name]["kind"] == "grid":
            samples += [replace(run, num_images=shown.needed(figures[name], run)) for run in runs]
    failures = {}
    if work["record"]:
        records = [point.run for point in unique(work["record"])]
        failures = make_records(records, evidence.evaluator, evidence.store)
    for point in unique(work["trajectory"]):
        trajectories.make(point.run, evidence.runs)
    for run in unique_runs(samples):
        sample_missing(run)
        distributed.barrier()
    return list(failures.values())


def say_what_lacks(planner, lacking: dict[str, list[Point]], evidence, figures) -> None:
    """Raise InputError naming the figures that cannot be drawn yet, and what they cost."""
    incomplete = {name: points for name, points in lacking.items() if points}
    if not incomplete:
        return
    weights, records, latencies = [], [], []
    for name, points in incomplete.items():
        unknown = [point for point in points if point.run.settings["weights"] is None]
        if evidence.kind(figures[name]) == "latency":
            latencies.append(
                f"{name} lacks {len(points)} latencies; measure them when the machine is idle: "
                f"{latency_command(points, planner.config)}"
            )
        elif unknown:
            weights.append(f"{name}: {why_no_weights(unknown[0])}")
        else:
            costs = Costs(planner.config)
            spent: Cost = cost([point.run for point in unique(points)], costs)
            records.append(
                f"{name} lacks {len(points)} records (first: {points[0].run.allocation}), "
                f"{spent.shared:,} network evaluations, {spent.hours[0]:.2g} hours on "
                f"{costs.devices[0]} device: {costs.sources[0]}{others_text(evidence, points)}"
            )
    if records:
        records.append("make them with the same command and run=true")
    raise InputError("; ".join(weights + records + latencies))


def others_text(evidence: Evidence, points: Sequence[Point]) -> str:
    """What is said of records that do not count, because FID depends on the number of images."""
    found = evidence.of_other_images(points)
    if not found:
        return ""
    asked = "/".join(f"{count:,}" for count in sorted({p.run.num_images for p in points}))
    there = "/".join(f"{count:,}" for count in sorted(set(found)))
    return (
        f"; {len(found)} records of the same runs are of {there} images and not of the {asked} of "
        "this protocol, so they do not count"
    )


def why_no_weights(point: Point) -> str:
    """What to do about the weights, or prompts, that a run lacks."""
    if isinstance(point.run, TextRun):
        return point.run.problem
    try:
        point.run.zoo.weights_sha256(dict.fromkeys(point.run.networks))
    except InputError as error:
        return str(error)
    return "its weights came while the command ran; start it again"


def size_text(run: Run | TextRun) -> str:
    """How much a pipeline's weights are, for people; empty for a zoo, whose card says it."""
    if isinstance(run, TextRun):
        return f" ({run.zoo.gigabytes():.3g} GB of weights)"
    return ""


def latency_command(points: list[Point], config: DictConfig) -> str:
    """The command that measures the latencies of ``points``, which share all but allocations.

    Args:
        config: of the command that lacks them, which looks for them in its ``runs``.
    """
    if isinstance(points[0].run, TextRun):
        command = text_latency_command(points)
    else:
        command = commands.latency([point.run for point in points])
    words = ["compile=true"] if points[0].run.compile else []
    if config.runs != "runs":  # where the latencies are looked for
        words.append(shlex.quote(f"runs={config.runs}"))
    return " ".join([command, *words])


def text_latency_command(points: list[Point]) -> str:
    """``latency_command`` of runs of a pipeline."""
    run = points[0].run
    shares = ",".join(f"{point.fractions[0]:g}" for point in points)
    words = [
        f"pipeline={run.zoo.name}",
        f"pipeline.steps={run.settings['sampler']['steps']}",
        f"pipeline.guidance={run.guidance.scale:g}",
        f"batch_size={run.batch_size}",
        f"shares=[{shares}]",
    ]
    if run.cache:
        words.append("cache=tome" if run.cache.ratio else "cache=deep")
        words.append(f"cache.ratio={run.cache.ratio:g}" if run.cache.ratio
                     else f"cache.interval={run.cache.interval}")  # fmt: skip
    return f"python -m scripts.latency {' '.join(words)}"


def plan(
    planner: Planner,
    figures: dict[str, dict],
    plans: dict[str, list[Point]],
    lacking: dict[str, list[Point]],
) -> list[str]:
    """What is there for figures, what is missing and what that costs, as lines of text."""
    costs, lines = Costs(planner.config), []
    for name, points in plans.items():
        settings: dict[str, list[Run]] = {}
        for point in unique(points):
            settings.setdefault(setting_text(point.run), []).append(point.run)
        absent = {point.run for point in lacking[name]}
        for setting, runs in settings.items():
            missing = [run for run in runs if run in absent]
            spent = cost([] if figures[name].get("latency") else missing, costs)
            lines.append(PlanLine(name, setting, len(runs), len(missing), spent))
    sampled = [name for name in plans if not figures[name].get("latency")]
    points = [point for name in sampled for point in plans[name]]
    everything = once(point.run for point in points)
    missing = once(point.run for name in sampled for point in lacking[name])
    spent = cost(missing, costs)
    lines.append(PlanLine("all", "every run once", len(everything), len(missing), spent))
    without = {p.run.zoo.name: p for p in points if p.run.settings["weights"] is None}
    return [
        *plan_text(lines, costs),
        f"protocol {planner.protocol}",
        *(
            f"{planner.chosen} {zoo}{size_text(point.run)}: {why_no_weights(point)}"
            for zoo, point in without.items()
        ),
    ]
