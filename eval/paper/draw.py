"""Draw figures and tables of the paper: ``python -m scripts.figures figure=fig05 [run=true]``.

They are drawn from records only. Missing ones are listed with their cost, or made at once with
``run=true`` (alone or under torchrun). ``figure=all``, ``figure=[fig05,fig06]``, ``dry_run=true``.
"""

if not __package__:
    import as_module  # noqa: F401  says how to start it, and exits

import csv
import json
import logging
import os
import sys
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from eval.results import require_alike
from models.errors import InputError
from models.zoo import ROOT
from scripts import launch, paper, tables, trajectories
from scripts.cli import command
from scripts.evaluate import Evaluator
from scripts.figure_kinds import KINDS, SAMPLERS, Drawing
from scripts.figure_plan import Planner, Point, cost, once, unique
from scripts.job import Job
from scripts.provenance import refuse_unclean
from scripts.sample import sample_missing
from scripts.sweep import check_writable, make_records, record_store, stored_record

log = logging.getLogger("figures")


@command("figures")
def main(config: DictConfig) -> None:
    if "figure" not in config:
        raise InputError("figure is not set; give one, a list, or figure=all (--help lists them)")
    figures: dict[str, dict] = OmegaConf.to_container(config.figure)
    for name, figure in figures.items():
        if figure["kind"] not in KINDS:
            raise InputError(
                f"figure.{name}.kind={figure['kind']} is unknown; known: {', '.join(KINDS)}"
            )
    planner = Planner(config)
    folder = figures_folder(config, planner)
    if not config.dry_run:
        refuse_unclean("figures", folder)
        if config.run:
            refuse_unclean("runs", config.runs)
    evidence = Evidence(config, planner)
    plans = {name: planner.points(figure) for name, figure in figures.items()}
    lacking = {
        name: [p for p in unique(points) if not evidence.exists(figures[name], p)]
        for name, points in plans.items()
    }
    if config.dry_run:
        for line in plan_text(planner, figures, plans, lacking):
            log.info("%s", line)
        return
    failures = []
    if config.run:
        check_writable(config.runs)
        failures = make_missing(figures, lacking, evidence)
        for name, points in lacking.items():
            lacking[name] = [point for point in points if not evidence.exists(figures[name], point)]
    if not launch.is_main():
        return
    for name, points in plans.items():
        if not lacking[name]:
            folder.mkdir(parents=True, exist_ok=True)
            draw(planner, evidence, name, figures[name], points, folder)
    if failures:
        log.error("%d points failed:\n  %s", len(failures), "\n  ".join(failures))
        sys.exit(1)
    say_what_lacks(planner, lacking, evidence, figures)


def figures_folder(config: DictConfig, planner: Planner) -> Path:
    """Where the pictures of a zoo under a protocol go."""
    default = Path(config.runs) / "figures" / config.zoo.name / planner.protocol
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
        sources = {"grid": "samples", "similarity": "trajectory", "spectrum": "trajectory"}
        return sources.get(figure["kind"], "record")

    def get(self, figure: dict, point: Point):
        """What is known of a point, or None; of a record its ``timing``, too."""
        job, kind = point.job, self.kind(figure)
        if job.run["weights"] is None:
            return None
        if kind == "record":
            record = stored_record(job, self.evaluator, self.store)
            return record and {**record, "timing": self.timing(point, record)}
        if kind == "trajectory":
            return trajectories.load(job, self.runs)
        if kind == "latency":
            return self.latency(job)
        return None if job.samples.missing(job.num_images) else job.samples.path

    def latency(self, job: Job) -> dict | None:
        """What ``scripts.latency`` measured of a run, or None."""
        # A run knows its decoder by the weights.
        setting = {**job.run, "decoder": job.zoo.decoder}
        return self.latencies.get(tables.latency_key(setting, str(job.allocation)))

    def timing(self, point: Point, record: dict) -> dict:
        """``ms_per_image``, of what ``device`` and ``batch_size``, and the file that says so.

        Measured for itself, a time is better than what sampling happened to take; empty if there
        is neither, as of a run that shared the beginnings of its trajectories.
        """
        known = self.latency(point.job) or {**record["cost"], "timing_source": self.record(point)}
        facts = ("ms_per_image", "device", "batch_size", "timing_source")
        return {fact: known[fact] for fact in facts} if "ms_per_image" in known else {}

    def record(self, point: Point) -> str:
        """The file of a point's record."""
        protocol = self.evaluator.protocol(point.job.num_images)
        return str(self.store.path(point.job.run, protocol))

    def exists(self, figure: dict, point: Point) -> bool:
        return self.get(figure, point) is not None

    def sources(self, figure: dict, point: Point, known) -> dict[str, str]:
        """The files behind a point's numbers.

        ``source`` of what was sampled and its quality, ``timing_source`` and ``memory_source`` of
        what was measured of its speed, ``network_sources`` of what its networks are.
        """
        job, kind = point.job, self.kind(figure)
        sources = {}
        if kind == "record":
            sources["source"] = self.record(point)
        elif kind == "trajectory":
            sources["source"] = str(trajectories.path_of(job, self.runs))
        elif kind == "samples":
            sources["source"] = str(job.samples.path)
        files = known["timing"] if kind == "record" else known if kind == "latency" else {}
        sources |= {k: files[k] for k in ("timing_source", "memory_source") if k in files}
        if tables.OF_NETWORKS.keys() & set(figure.get("columns", [])):
            paths = [job.zoo.checkpoint(name) for name in job.allocation.denoisers]
            sources["network_sources"] = [os.path.relpath(path, ROOT) for path in paths]
        return sources


def make_missing(figures: dict, lacking: dict[str, list[Point]], evidence: Evidence) -> list[str]:
    """Make every missing point, each once, by all ranks; return what failed and why."""
    work: dict[str, list[Point]] = {"record": [], "trajectory": [], "samples": [], "latency": []}
    for name, points in lacking.items():
        known = [point for point in points if point.job.run["weights"] is not None]
        work[evidence.kind(figures[name])] += known
    failures = {}
    if work["record"]:
        records = [point.job for point in unique(work["record"])]
        failures = make_records(records, evidence.evaluator, evidence.store)
    for point in unique(work["trajectory"]):
        trajectories.make(point.job, evidence.runs)
    for point in unique(work["samples"]):
        sample_missing(point.job)
        launch.barrier()
    return list(failures.values())


def say_what_lacks(planner, lacking: dict[str, list[Point]], evidence, figures) -> None:
    """Raise InputError naming the figures that cannot be drawn yet, and what they cost."""
    incomplete = {name: points for name, points in lacking.items() if points}
    if not incomplete:
        return
    weights, records, latencies = [], [], []
    for name, points in incomplete.items():
        unknown = [point for point in points if point.job.run["weights"] is None]
        if evidence.kind(figures[name]) == "latency":
            latencies.append(
                f"{name} lacks {len(points)} latencies; measure them when the machine is idle: "
                f"{latency_command(points)}"
            )
        elif unknown:
            weights.append(f"{name}: {why_no_weights(unknown[0])}")
        else:
            spent = cost(points, planner.facts["throughput"])
            records.append(
                f"{name} lacks {len(points)} records (first: {points[0].job.allocation}), "
                f"{spent['nfe']:,} network evaluations, {spent['hours']:.2g} hours of one "
                f"{planner.facts['throughput']['device']}"
            )
    if records:
        records.append("make them with the same command and run=true")
    raise InputError("; ".join(weights + records + latencies))


def why_no_weights(point: Point) -> str:
    """What to do about the weights that a run lacks."""
    try:
        point.job.zoo.weights_sha256(dict.fromkeys(point.job.networks))
    except InputError as error:
        return str(error)
    return "its weights came while the command ran; start it again"


def latency_command(points: list[Point]) -> str:
    run = points[0].job.run
    precision = {"bfloat16": "bf16", "float32": "fp32"}[run["dtype"]]
    allocations = ",".join(run["allocation"] for run in (point.job.run for point in points))
    return (
        f"python -m scripts.latency zoo={run['zoo']} sampler={run['sampler']['name']} "
        f"sampler.steps={run['sampler']['steps']} guidance.scale={run['guidance']['scale']:g} "
        f"precision={precision} 'allocations=[{allocations}]'"
    )


def plan_text(planner: Planner, figures, plans, lacking) -> list[str]:
    """The complete plan: what is there, what is missing, what that costs."""
    throughput = planner.facts["throughput"]
    devices = throughput["devices"]
    hours = "".join(f"{f'h on {n}':>10}" for n in devices)
    head = f"{'figure':8} {'setting':44} {'points':>6} {'done':>5} {'missing':>7} {'NFE':>9} "
    lines = [f"{head}{'MACs':>8}{hours}"]
    for name, points in plans.items():
        groups: dict[str, list[Point]] = {}
        for point in unique(points):
            groups.setdefault(setting_text(point), []).append(point)
        for setting, group in groups.items():
            missing = [point for point in group if point in lacking[name]]
            lines.append(_plan_line(name, setting, group, missing, throughput, figures[name]))
    sampled = [name for name in plans if not figures[name].get("latency")]
    everything = once(point for name in sampled for point in plans[name])
    missing = once(point for name in sampled for point in lacking[name])
    lines.append(_plan_line("all", "every run once", everything, missing, throughput, {}))
    lines.append(
        f"protocol {planner.protocol}; hours of sampling alone on N devices, each "
        f"{throughput['device']} ({throughput['basis']})"
    )
    without = {p.job.zoo.name: p for p in everything if p.job.run["weights"] is None}
    lines += [f"zoo {zoo}: {why_no_weights(point)}" for zoo, point in without.items()]
    return lines


def _plan_line(name, setting, points, missing, throughput, figure) -> str:
    spent = cost([] if figure.get("latency") else missing, throughput)
    hours = "".join(f"{spent['hours'] / n:10.2f}" for n in throughput["devices"])
    return (
        f"{name:8} {setting:44} {len(points):6} {len(points) - len(missing):5} {len(missing):7} "
        f"{spent['nfe']:9.3g} {spent['macs']:8.2g}{hours}"
    )


def setting_text(point: Point) -> str:
    """The settings that the points of a curve share."""
    job = point.job
    run = job.run
    sampler = SAMPLERS.get(run["sampler"]["name"], run["sampler"]["name"])
    return (
        f"{sampler} {run['sampler']['steps']} steps, w = {run['guidance']['scale']:g}, "
        f"{job.num_images:,} images"
    )


def draw(planner, evidence, name, figure, points: list[Point], folder: Path) -> None:
    """Picture or table, the numbers behind it as CSV, and JSON that names every number's file."""
    found = [evidence.get(figure, point) for point in points]
    if evidence.kind(figure) == "record":
        require_alike(found, ["weights", *varied(points)])  # a guide's, too
    path = folder / f"{name}.png"
    names = {key: text for key, text in planner.parts(figure).items() if key != "schedule"}
    caption = caption_text(planner, figure, points, found)
    same_data = planner.dataset == "imagenet256"
    drawing = Drawing(figure, names, points, found, path, evidence.runs, same_data, caption)
    KINDS[figure["kind"]](drawing)
    rows = [row(drawing, point, record) for point, record in zip(points, found, strict=True)]
    with open(path.with_suffix(".csv"), "w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for line in rows for key in line)))
        writer.writeheader()
        writer.writerows(rows)
    about = {
        "figure": name,
        "zoo": names["zoo"],
        "protocol": None if figure.get("scaled") is False else planner.protocol,
        "caption": caption,
        "facts": str(paper.FACTS.relative_to(paper.FACTS.parents[2])),
        "commit": launch.commit(),
        "points": [
            {**line, **evidence.sources(figure, point, known)}
            for line, point, known in zip(rows, points, found, strict=True)
        ],
    }
    path.with_suffix(".json").write_text(json.dumps(about, indent=1) + "\n")
    for line in listing(rows) if figure["kind"] in ("curves", "pareto") else []:
        log.info("%s", line)
    log.info("%s", path.with_suffix(".md") if figure["kind"] == "table" else path)


def varied(points: list[Point]) -> set[str]:
    """The conditions of records that a figure says it varies."""
    conditions = {"steps": "sampler.steps", "images": "num_images", "precision": "dtype"}
    first, *others = [_settings(point) for point in points]
    names = {key for other in others for key in first | other if first.get(key) != other.get(key)}
    return {conditions.get(name, name) for name in names}


def _settings(point: Point) -> dict:
    return {**point.paper, **point.paper.get("settings", {}), "settings": None}


def row(drawing: Drawing, point: Point, record) -> dict:
    """One line of the CSV beside a figure."""
    run = point.job.run
    line = {
        "panel": drawing.panel_titles()[point.panel],
        "series": drawing.text(drawing.figure["series"][point.series]["label"], point),
        "fractions": " ".join(f"{fraction:g}" for fraction in point.fractions),
        "allocation": run["allocation"],
        "sampler": run["sampler"]["name"],
        "steps": run["sampler"]["steps"],
        "guidance": run["guidance"]["scale"],
        "images": point.job.num_images,
        "dtype": run["dtype"],
        "run": point.key[0],
    }
    for column in drawing.figure.get("columns", []):
        if column in tables.OF_NETWORKS:
            line[column] = tables.of_networks(column, point)
    if not isinstance(record, dict):
        return line
    if "metrics" in record:
        return line | {
            **record["metrics"],
            "gmacs_per_image": record["cost"]["macs_per_image"] / 1e9,
            "ms_per_image": record["timing"].get("ms_per_image"),
            "device": record["timing"].get("device"),
        }
    measured = ("ms_per_8_images", "peak_rss_mb", "peak_allocated_mb", "device")
    return line | {name: record[name] for name in measured if name in record}


def listing(rows: list[dict]) -> list[str]:
    """The numbers of a figure as lines of text."""
    width = max(len(row["allocation"]) for row in rows)
    lines = [
        f"{'allocation':{width}} {'FID':>8} {'IS':>8} {'precision':>9} {'recall':>7} {'GMACs':>9} "
        f"{'ms/image':>9}"
    ]
    for row in rows:
        milliseconds = row["ms_per_image"]
        lines.append(
            f"{row['allocation']:{width}} {row['fid']:8.3f} {row['is']:8.3f} "
            f"{row['precision']:9.3f} {row['recall']:7.3f} {row['gmacs_per_image']:9.4g} "
            f"{'-' if milliseconds is None else format(milliseconds, '.2f'):>9}"
        )
    return lines


def caption_text(planner, figure: dict, points: list[Point], found: list) -> str:
    """How the numbers of a figure were made, printed on it."""
    jobs = [point.job for point in points]
    samplers = dict.fromkeys(SAMPLERS.get(n, n) for n in (j.run["sampler"]["name"] for j in jobs))
    steps = sorted({job.run["sampler"]["steps"] for job in jobs})
    scales = sorted({job.run["guidance"]["scale"] for job in jobs})
    images = sorted({job.num_images for job in jobs})
    plural = "" if images == [1] else "s"
    text = (
        f"zoo {jobs[0].zoo.name}, {' / '.join(samplers)}, {_list(steps)} steps, guidance "
        f"{_list(scales)}, {_list(images)} image{plural}, "
        f"seed {jobs[0].run['seed']}, "
        f"{' / '.join(dict.fromkeys(job.run['dtype'] for job in jobs))}"
    )
    if figure.get("scaled") is not False:
        text += f", protocol {planner.protocol}{' changed' if planner.changed else ''}"
    timed = figure["kind"] == "pareto" or "time" in figure.get("y", figure.get("columns", []))
    devices = {} if not timed else {r["timing"].get("device"): r["timing"].get("batch_size")
               for r in found if isinstance(r, dict) and "timing" in r}  # fmt: skip
    if figure["kind"] != "table" and (None in devices or len(devices) > 1):
        devices = {}  # the axis is MACs
    timed = [f"{device}, batch {batch}" for device, batch in devices.items() if device]
    return f"{text}; times: {' and '.join(timed)}" if timed else text


def _list(values: list) -> str:
    if len(values) > 5:
        return f"{values[0]:,g} to {values[-1]:,g}"
    return " / ".join(f"{value:,g}" for value in values)


if __name__ == "__main__":
    main()
