"""Draw a figure or a table: the picture, the numbers behind it, and the file behind each number."""

import csv
import json
from pathlib import Path

from eval import terminal
from eval.estimate import SAMPLERS, cache_text
from eval.metrics import METRICS
from eval.paper import reported, tables
from eval.paper.drawing import Drawing
from eval.paper.kinds import KINDS
from eval.paper.measured import together
from eval.paper.points import Point
from models.errors import InputError
from stitch.runs import provenance
from stitch.runs.records import require_alike


def draw(
    planner, evidence, name, figure, points: list[Point], folder: Path
) -> tuple[Path, list[str]]:
    """Picture or table, the numbers behind it as CSV, and JSON that names every number's file.

    Returns:
        What was drawn, and the numbers of a plot as lines for a terminal.
    """
    found = evidence.of(figure, points)
    if evidence.kind(figure) == "record":
        require_alike(found, ["weights", "card", *varied(points)])  # a guide's, too
        check_metrics(evidence, name, figure, points, found)
    path = folder / f"{name}.png"
    names = {key: text for key, text in planner.parts(figure).items() if key != "schedule"}
    caption = caption_text(planner, figure, points, found)
    same_data = planner.dataset in ("imagenet256", "coco")
    drawing = Drawing(figure, names, points, found, path, evidence.runs, same_data, caption)
    KINDS[figure["kind"]](drawing)
    rows = [row(drawing, point, record) for point, record in zip(points, found, strict=True)]
    with open(path.with_suffix(".csv"), "w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for line in rows for key in line)))
        writer.writeheader()
        writer.writerows(rows)
    about = {
        "figure": name,
        **{kind: names[kind] for kind in ("zoo", "pipeline") if kind in names},
        "protocol": None if figure.get("scaled") is False else planner.protocol,
        "caption": caption,
        "facts": str(reported.FACTS.relative_to(reported.FACTS.parents[2])),
        "commit": provenance.commit(),
        "points": [
            {**line, **evidence.sources(figure, point, known)}
            for line, point, known in zip(rows, points, found, strict=True)
        ],
    }
    path.with_suffix(".json").write_text(json.dumps(about, indent=1) + "\n")
    if figure["kind"] == "table":
        return path.with_suffix(".md"), []
    return path, terminal.listing(rows) if figure["kind"] in ("curves", "pareto") else []


def check_metrics(evidence, name, figure: dict, points: list[Point], found: list[dict]) -> None:
    """Raise InputError if a record lacks a metric that the figure shows."""
    shown = [one for key in ("y", "columns", "beside") for one in figure.get(key, [])]
    for point, record in zip(points, found, strict=True):
        lacking = [one for one in shown if one in METRICS and one not in record["metrics"]]
        if lacking:
            metrics = ",".join(dict.fromkeys([*evidence.evaluator.config.metrics, *lacking]))
            raise InputError(
                f"figure.{name}: {evidence.record(point)} has no {', '.join(lacking)}, and records "
                "are immutable; choose another folder with runs=FOLDER or move the record away, "
                f"and give eval.metrics=[{metrics}] run=true"
            )


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
    run = point.run.settings
    line = {
        "panel": drawing.panel_titles()[point.panel],
        "series": drawing.text(drawing.figure["series"][point.series]["label"], point),
        "fractions": " ".join(f"{fraction:g}" for fraction in point.fractions),
        "allocation": run["allocation"],
        "sampler": run["sampler"]["name"],
        "steps": run["sampler"]["steps"],
        "guidance": run["guidance"]["scale"],
        "images": point.run.num_images,
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
    if "timing" in record:  # of a grid
        timing = record["timing"]
        return line | {name: timing[name] for name in ("ms_per_image", "device") if name in timing}
    measured = ("ms_per_8_images", "peak_rss_mb", "peak_allocated_mb", "device")
    return line | {name: record[name] for name in measured if name in record}


def caption_text(planner, figure: dict, points: list[Point], found: list) -> str:
    """How the numbers of a figure were made, printed on it."""
    runs = [point.run for point in points]
    settings = [run.settings for run in runs]
    names = dict.fromkeys(one["sampler"]["name"] for one in settings)
    steps = sorted({one["sampler"]["steps"] for one in settings})
    scales = sorted({one["guidance"]["scale"] for one in settings})
    images = sorted({run.num_images for run in runs})
    plural = "" if images == [1] else "s"
    text = (
        f"{planner.chosen} {runs[0].zoo.name}, "
        f"{' / '.join(SAMPLERS.get(name, name) for name in names)}, "
        f"{_list(steps)} steps, guidance {_list(scales)}, {_list(images)} image{plural}, "
        f"seed {settings[0]['seed']}, "
        f"{' / '.join(dict.fromkeys(one['dtype'] for one in settings))}"
    )
    caches = dict.fromkeys(cache_text(run) for run in runs)
    text += "".join(caches) if len(caches) == 1 else ""  # else what is drawn says which
    if figure.get("scaled") is not False:
        text += f", protocol {planner.protocol}{' changed' if planner.changed else ''}"
    named = {*figure.get("y", []), *figure.get("columns", []), *figure.get("beside", [])}
    timed = figure["kind"] == "pareto" or "time" in named
    timings = [r["timing"] for r in found if timed and isinstance(r, dict) and "timing" in r]
    if figure["kind"] != "table" and not (all(timings) and together(timings)):
        timings = []  # the axis is MACs
    on = dict.fromkeys(f"{t['device']}, batch {t['batch_size']}" for t in timings if t)
    return f"{text}; times: {' and '.join(on)}" if on else text


def _list(values: list) -> str:
    if len(values) > 5:
        return f"{values[0]:,g} to {values[-1]:,g}"
    return " / ".join(f"{value:,g}" for value in values)
